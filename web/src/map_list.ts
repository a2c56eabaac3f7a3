/** The label maps of the image that is open: which is shown, which it is compared with, whose they are, deleted. */

import * as api from "./api";
import { compared, compareWith } from "./comparing";
import { mayLeave } from "./correcting";
import { byId, link, make, press, quiet, refill, trash } from "./dom";
import { mapOfJob, maps } from "./labelmaps";
import { announce, explain, show } from "./messages";
import { showMap } from "./opening";
import { deleteJob, moment } from "./recent";
import { changed, on, state } from "./state";
import type { Job, LabelMap } from "./types";
import type { Viewer } from "./viewer";

const list = byId<HTMLUListElement>("maps");
let viewer: Viewer;
let removed: (job: Job) => void;

/** @param told is told of a job that was deleted. */
export function connectMapList(shown: Viewer, told: (job: Job) => void): void {
  [viewer, removed] = [shown, told];
  on("maps", draw);
  on("compared", pressCompared);
}

function draw(): void {
  byId("compare-section").hidden = !state.image;
  refill(list, maps.map(item));
  pressCompared();
}

function item(map: LabelMap): HTMLLIElement {
  const shown = state.shown?.id === map.id;
  const open = link(map.name, shown, () => void showMap(map, viewer));
  open.title = "Show it";
  const compare = make("button", { type: "button", className: "compare", hidden: shown, disabled: !state.shown }, "Compare");
  compare.setAttribute("aria-label", `Compare what is shown with ${map.name}`);
  compare.addEventListener("click", () => void compareWith(compared?.id === map.id ? null : map));
  const really = { text: "Delete it", use: () => void remove(map) };
  const ask = (): void => show("note", `Delete ${map.name}, ${about(map)}?`, "It cannot be had again.", [really]);
  return make("li", {}, open, compare, trash(`Delete ${map.name}`, ask), quiet(shown ? `shown · ${about(map)}` : about(map)));
}

function pressCompared(): void {
  for (const [n, button] of list.querySelectorAll<HTMLElement>(".compare").entries()) press(button, maps[n]!.id === compared?.id);
}

function about({ kind, author, created, changed_voxels }: LabelMap): string {
  const what = { job: ["the model's result"], given: ["a file"], correction: [author ?? "somebody", ...(changed_voxels == null ? [] : [`${changed_voxels} voxels changed`])] }[kind];
  return [moment(created), ...what].join(" · ");
}

async function remove({ id, name, job }: LabelMap): Promise<void> {
  if (job) return deleteJob(job, removed);
  if (state.shown?.id === id && !(await mayLeave())) return;
  try {
    await api.deleteLabelMap(id);
    announce(`${name} is deleted.`);
    if (state.shown?.id === id) await showWithout();
    changed("versions");
  } catch (error) {
    explain(error, "Deleting");
  }
}

/** Show the model's result in place of what was deleted, if there is one. */
async function showWithout(): Promise<void> {
  state.labels = state.shown = null;
  viewer.showLabels(null, []);
  changed("labels");
  if (state.job?.status === "done") await showMap(mapOfJob(state.job), viewer);
}
