/** The structures that were found: names, colours, volumes, what is shown, and the comparison. */

import { byId, make, press, pressed, sentence, swatch, toggle } from "./dom";
import type { Vector } from "./nifti";
import { bundleOf, on, state } from "./state";
import { isAssessed, trustOf } from "./trust";
import type { Label } from "./types";
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
  on("comparison", compare);
}

export function changeOpacity(by: number): void {
  slider.value = String(Number(slider.value) + by);
  slider.dispatchEvent(new Event("input"));
}

/** The names and colours of the labels that are shown. */
export function labelsOfJob(): Label[] {
  const known = bundleOf(state.job)?.labels ?? state.job?.statistics ?? [];
  return known.filter(({ index }) => index > 0).map(({ index, name, color }) => ({ index, name, color }));
}

function rows(viewer: Viewer): void {
  const picture = state.image?.info.kind === "picture";
  byId("volume-head").textContent = picture ? "pixels" : "ml";
  byId("hd95-head").textContent = picture ? "HD95 px" : "HD95 mm";
  const doubts = state.job?.warnings ?? [];
  byId("result-doubts").hidden = !doubts.length;
  byId("result-doubts").replaceChildren(...doubts.map((text) => make("p", {}, sentence(text))));
  body.replaceChildren(...labelsOfJob().flatMap((label) => rowsOf(label, viewer, picture)));
  byId("trust-unknown").hidden = !!state.job?.statistics?.some(isAssessed);
  compare();
}

function rowsOf({ index, name, color }: Label, viewer: Viewer, picture: boolean): HTMLTableRowElement[] {
  const spoken = make("span", { className: "hidden-text" }, `Show ${name}`);
  const eye = make("button", { type: "button", className: "eye", title: `Show or hide ${name}` }, swatch(color), spoken);
  press(eye, true);
  eye.addEventListener("click", () => {
    press(eye, !pressed(eye));
    if (pressed(eye)) hidden.delete(index);
    else hidden.add(index);
    viewer.setHidden(hidden);
  });
  const found = make("button", { type: "button", className: "link", title: `Go to ${name}` }, name);
  found.addEventListener("click", () => goTo(index, viewer));
  const statistic = state.job?.statistics?.find((each) => each.index === index);
  const measured = picture ? statistic?.voxels : statistic && millilitres(statistic.volume_ml);
  const amount = make("td", { className: "number" }, String(measured ?? "–"));
  const scores = ["dice", "hd95"].map((key) => make("td", { className: `number compare-only ${key}`, hidden: true }));
  const line = make("tr", {}, make("th", { scope: "row" }, eye, found), amount, ...scores);
  line.dataset.index = String(index);
  if (!statistic || !isAssessed(statistic)) return [line];
  const bounds = picture ? null : statistic.volume_interval_ml;
  const trust = trustOf(statistic, state.job!, bounds ? `${bounds.map(millilitres).join(" – ")} ml` : "");
  return [line, make("tr", { className: "trust" }, make("td", { colSpan: 2 + scores.length }, trust))];
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

const score = (value: number | null | undefined, digits: number): string =>
  value === null || value === undefined || !Number.isFinite(value) ? "–" : value.toFixed(digits);

function compare(): void {
  const comparison = state.comparison;
  for (const each of section.querySelectorAll<HTMLElement>(".compare-only")) each.hidden = !comparison;
  if (!comparison) return;
  for (const { index, dice, hd95_mm } of comparison.structures) {
    const line = body.querySelector(`tr[data-index="${index}"]`);
    if (!line) continue;
    line.querySelector(".dice")!.textContent = score(dice, 3);
    line.querySelector(".hd95")!.textContent = score(hd95_mm, 2);
  }
  byId("mean-dice").textContent = score(comparison.mean?.dice, 3);
  byId("mean-hd95").textContent = score(comparison.mean?.hd95_mm, 2);
}
