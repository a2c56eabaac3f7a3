/** The grey scale: window and level, presets, and what right-dragging changed. */

import { byId, options } from "./dom";
import { on, state } from "./state";
import type { Viewer } from "./viewer";

/** Level and width in Hounsfield units, as CT workstations name them. */
const CT: [name: string, level: number, width: number][] = [
  ["Soft tissue", 40, 400],
  ["Liver", 60, 160],
  ["Lung", -600, 1500],
  ["Bone", 400, 1800],
  ["Brain", 40, 80],
  ["Mediastinum", 50, 350],
];
/** No other modality has values this far below zero everywhere outside the body. */
const AIR_HU = -700;

const preset = byId<HTMLSelectElement>("preset");
const level = byId<HTMLInputElement>("level");
const width = byId<HTMLInputElement>("width");
let presets: [name: string, low: number, high: number][] = [];
let step = 1;

/** The window that an image opens with: its preset for CT, else all but the extremes. */
export function firstWindow(): [number, number] {
  const [, low, high] = presets[0] ?? ["", 0, 1];
  return [low, high];
}

export function measure(channel = 0): void {
  const voxels = state.image!.voxels;
  const [low, high] = voxels.range(channel, 0.005);
  const full = voxels.range(channel);
  const automatic: typeof presets = [["Automatic", low, Math.max(high, low + 1e-6)], ["Full range", ...full]];
  const ct: typeof presets = CT.map(([name, at, wide]) => [name, at - wide / 2, at + wide / 2]);
  const looksLikeCt = state.image!.info.kind === "volume" && full[0] <= AIR_HU && full[1] > 100;
  presets = looksLikeCt ? [...ct, ...automatic] : automatic;
  const span = full[1] - full[0];
  step = 10 ** Math.floor(Math.log10(Math.max(span, 1e-6) / 200));
  options(preset, [...presets.map(([name]): [string, string] => [name, name]), ["", "Custom"]]);
}

export function connectWindow(viewer: Viewer): void {
  preset.addEventListener("change", () => {
    const found = presets.find(([name]) => name === preset.value);
    if (found) viewer.window = [found[1], found[2]];
    showWindow(viewer);
  });
  for (const field of [level, width]) {
    field.addEventListener("change", () => {
      const [at, wide] = [Number(level.value), Math.max(Number(width.value), step / 10)];
      if (Number.isFinite(at + wide)) viewer.window = [at - wide / 2, at + wide / 2];
      showWindow(viewer);
    });
  }
  on("image", () => state.image && showWindow(viewer));
}

/** Write the viewer's window into the fields. */
export function showWindow(viewer: Viewer): void {
  const [low, high] = viewer.window;
  const text = (value: number): string => String(Number((Math.round(value / step) * step).toPrecision(6)));
  level.value = text((low + high) / 2);
  width.value = text(high - low);
  level.step = width.step = "any";
  const close = (a: number, b: number): boolean => Math.abs(a - b) < step / 2;
  preset.value = presets.find(([, from, to]) => close(from, low) && close(to, high))?.[0] ?? "";
}

/** Go to the next preset. */
export function nextPreset(): void {
  if (preset.disabled || presets.length === 0) return;
  preset.selectedIndex = (preset.selectedIndex + 1) % presets.length;
  preset.dispatchEvent(new Event("change"));
}
