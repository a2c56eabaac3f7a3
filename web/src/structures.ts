/** The structures that were found: names, colours, volumes, what is shown. */

import { undoable, voxelCounts } from "./correcting";
import { byId, make, press, pressed, sentence, swatch, toggle } from "./dom";
import type { Vector } from "./nifti";
import { on, state } from "./state";
import { isAssessed, trustOf } from "./trust";
import type { Label, Measured } from "./types";
import type { Body } from "./screen";
import type { Viewer } from "./viewer";

const section = byId("structures-section");
const body = byId<HTMLTableElement>("structures").tBodies[0]!;
const slider = byId<HTMLInputElement>("opacity");
const hidden = new Set<number>();

export let toggleLabels: (on?: boolean) => void;

export function connectStructures(viewer: Viewer): void {
  toggleLabels = toggle("toggle-labels", (on) => viewer.setLabelsShown(on));
  toggle("toggle-outline", (on) => viewer.setOutline(on));
  const inside = byId<HTMLSelectElement>("body");
  inside.addEventListener("change", () => viewer.setBody(inside.value as Body));
  slider.addEventListener("input", () => {
    byId("opacity-text").textContent = `${slider.value} %`;
    viewer.setOpacity(Number(slider.value) / 100);
  });
  on("labels", () => {
    hidden.clear();
    section.hidden = !state.labels;
    rows(viewer);
  });
  for (const topic of ["structures", "versions"] as const) on(topic, () => (viewer.setHidden(hidden), rows(viewer)));
  on("edit", showAmounts);
}

/** Show a structure that is about to be drawn: nobody draws what is not seen. */
export function reveal(index: number, viewer: Viewer): void {
  if (!pressed(byId("toggle-labels"))) toggleLabels(true);
  if (!hidden.delete(index)) return;
  viewer.setHidden(hidden);
  rows(viewer);
}

export function changeOpacity(by: number): void {
  slider.value = String(Number(slider.value) + by);
  slider.dispatchEvent(new Event("input"));
}

function rows(viewer: Viewer): void {
  const picture = state.image?.info.kind === "picture";
  byId("volume-head").textContent = picture ? "pixels" : "ml";
  const job = state.shown?.job;
  const doubts = job?.warnings ?? [];
  byId("result-doubts").hidden = !doubts.length;
  byId("result-doubts").replaceChildren(...doubts.map((text) => make("p", {}, sentence(text))));
  body.replaceChildren(...(state.labels?.structures ?? []).map(measured).flatMap((each) => rowsOf(each, viewer, picture)));
  byId("trust-unknown").hidden = !job || !!job.statistics?.some(isAssessed);
}

function rowsOf(structure: Measured, viewer: Viewer, picture: boolean): HTMLTableRowElement[] {
  const { index, name, color } = structure;
  const spoken = make("span", { className: "hidden-text" }, `Show ${name}`);
  const eye = make("button", { type: "button", className: "eye", title: `Show or hide ${name}` }, swatch(color), spoken);
  press(eye, !hidden.has(index));
  eye.addEventListener("click", () => {
    press(eye, !pressed(eye));
    if (pressed(eye)) hidden.delete(index);
    else hidden.add(index);
    viewer.setHidden(hidden);
  });
  const found = make("button", { type: "button", className: "link", title: `Go to ${name}` }, name);
  found.addEventListener("click", () => goTo(index, viewer));
  const amount = make("td", { className: "number amount" }, amountOf(structure));
  const line = make("tr", {}, make("th", { scope: "row" }, eye, found), amount);
  line.dataset.index = String(index);
  const job = state.shown?.job;
  const statistic = job?.statistics?.find((each) => each.index === index);
  if (!job || !statistic || !isAssessed(statistic)) return [line];
  const bounds = picture ? null : statistic.volume_interval_ml;
  const trust = trustOf(statistic, job, bounds ? `${bounds.map(millilitres).join(" – ")} ml` : "");
  return [line, make("tr", { className: "trust" }, make("td", { colSpan: 2 }, trust))];
}

/** What a structure measures: as the server told, or as it is drawn now. */
function measured(label: Label): Measured {
  const told = undoable() ? null : state.shown?.structures.find(({ index }) => index === label.index);
  if (told) return told;
  const voxels = label.members.reduce((sum, value) => sum + (voxelCounts()[value] ?? 0), 0);
  return { ...label, voxels, volume_ml: voxels * state.labels!.millilitres };
}

function showAmounts(): void {
  for (const label of state.labels?.structures ?? []) {
    const cell = body.querySelector(`tr[data-index="${label.index}"] .amount`);
    if (cell) cell.textContent = amountOf(measured(label));
  }
  for (const each of body.querySelectorAll<HTMLElement>(".trust")) each.hidden = undoable(); // it is of the model's result
}

/** How much of a structure there is: pixels of a picture, else millilitres. */
export function amountOf({ voxels, volume_ml }: Measured): string {
  return state.image?.info.kind === "picture" ? String(voxels) : millilitres(volume_ml);
}

const millilitres = (volume: number): string => volume.toFixed(volume >= 100 ? 0 : volume >= 10 ? 1 : 2);

/** Put the crosshair into the slice with most of a structure, at a voxel of it near its middle. */
function goTo(index: number, viewer: Viewer): void {
  const [labels, image] = [state.labels, state.image];
  if (!labels || !image) return;
  const { dims, data } = labels;
  const area = dims[0] * dims[1];
  const counts = Array.from({ length: dims[2] }, () => 0);
  for (let n = 0; n < data.length; n++) if (data[n] === index) counts[Math.floor(n / area)]! += 1;
  const k = counts.indexOf(Math.max(...counts));
  const inside: Vector[] = [];
  for (let n = 0; n < area; n++)
    if (data[k * area + n] === index) inside.push([n % dims[0], Math.floor(n / dims[0]), k]);
  if (!inside.length) return;
  const mean = (axis: 0 | 1): number => inside.reduce((sum, at) => sum + at[axis], 0) / inside.length;
  const [x, y] = [mean(0), mean(1)];
  const distance = (at: Vector): number => Math.hypot(at[0] - x, at[1] - y);
  const best = inside.reduce((a, b) => (distance(b) < distance(a) ? b : a));
  viewer.moveTo(image.voxels.mm(best));
}
