/** Label maps that people sent or drew on the image that is open: by whom and when, gone back to, deleted. */

import * as api from "./api";
import { mayLeave } from "./correcting";
import { byId, make } from "./dom";
import { mapOfJob } from "./labelmaps";
import { announce, explain, show } from "./messages";
import { showMap } from "./opening";
import { changed, on, state } from "./state";
import type { LabelMap } from "./types";
import type { Viewer } from "./viewer";

const list = byId<HTMLUListElement>("versions");
let viewer: Viewer;
let maps: LabelMap[] = [];

export function connectVersions(shown: Viewer): void {
  viewer = shown;
  on("image", () => ((maps = []), draw()));
  for (const topic of ["image", "versions", "labels"] as const) on(topic, () => void load());
}

async function load(): Promise<void> {
  const id = state.image?.info.id;
  if (!id) return;
  try {
    const found = await api.labelMaps(id);
    if (state.image?.info.id !== id) return;
    maps = found;
    draw();
  } catch (error) {
    explain(error, "Listing the versions", () => void load());
  }
}

function draw(): void {
  list.replaceChildren(...maps.map(item));
  byId("versions-title").hidden = !maps.length;
}

function item(record: LabelMap): HTMLLIElement {
  const open = make("button", { type: "button", className: "link" }, record.name);
  open.addEventListener("click", () => void showMap(record, viewer));
  if (state.shown?.id === record.id) open.setAttribute("aria-current", "true");
  const trash = make("button", { type: "button", className: "close", title: "Delete" }, "×");
  trash.setAttribute("aria-label", `Delete ${record.name}`);
  const really = { text: "Delete it", use: () => void remove(record) };
  trash.addEventListener("click", () => show("note", `Delete ${record.name}, ${about(record)}?`, "It cannot be had again.", [really]));
  return make("li", {}, open, trash, make("span", { className: "quiet" }, about(record)));
}

function about({ kind, author, created, changed_voxels }: LabelMap): string {
  const when = new Date(created).toLocaleString([], { dateStyle: "short", timeStyle: "short" });
  return kind === "given" ? when : `${author ?? "somebody"} · ${when} · ${changed_voxels} voxels`;
}

async function remove({ id, name }: LabelMap): Promise<void> {
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
