/** Label maps that people sent or drew on the image that is open: by whom and when, gone back to, deleted. */

import * as api from "./api";
import { mayLeave } from "./correcting";
import { byId, link, make, quiet, trash } from "./dom";
import { mapOfJob, maps } from "./labelmaps";
import { announce, explain, show } from "./messages";
import { showMap } from "./opening";
import { changed, on, state } from "./state";
import type { LabelMap } from "./types";
import type { Viewer } from "./viewer";

const list = byId<HTMLUListElement>("versions");
let viewer: Viewer;

export function connectVersions(shown: Viewer): void {
  viewer = shown;
  on("maps", draw);
}

function draw(): void {
  const versions = maps.filter(({ kind }) => kind !== "job");
  list.replaceChildren(...versions.map(item));
  byId("versions-title").hidden = !versions.length;
}

function item(record: LabelMap): HTMLLIElement {
  const open = link(record.name, state.shown?.id === record.id, () => void showMap(record, viewer));
  const really = { text: "Delete it", use: () => void remove(record) };
  const ask = (): void => show("note", `Delete ${record.name}, ${about(record)}?`, "It cannot be had again.", [really]);
  return make("li", {}, open, trash(`Delete ${record.name}`, ask), quiet(about(record)));
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
