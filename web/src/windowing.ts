/** The grey scale: window and level, presets, and what right-dragging changed. */

import { byId, options } from "./dom";
import { chosenBundle } from "./segmenting";
import { on, state } from "./state";
import type { Viewer } from "./viewer";

/** Level and width in Hounsfield units, as CT workstations name them, and for which structures each is. */
const CT: [name: string, level: number, width: number, structures: RegExp][] = [
  ["Soft tissue", 40, 400, /^$/],
  ["Liver, portal venous", 100, 200, /liver|hepat/],
  ["Liver, no contrast", 60, 160, /^$/],
  ["Lung", -600, 1500, /lung|lobe|pulmon|airway|trachea|bronch|nodule/],
  ["Bone", 400, 1800, /\bbone|vertebra|\brib|femur|\bhip\b|sacrum|skull|pelvis/],
  ["Brain", 40, 80, /brain|ha?emorrhage|stroke|infarct|gr[ae]y matter|white matter/],
  ["Mediastinum", 50, 350, /heart|aorta|myocard|atrium|esophagus/],
];

const preset = byId<HTMLSelectElement>("preset");
const level = byId<HTMLInputElement>("level");
const width = byId<HTMLInputElement>("width");
let presets: [name: string, low: number, high: number][] = [];
let first = "";
let step = 1;

/** The window that an image opens with: what the chosen model's structures want of a CT, else all but the extremes. */
export function firstWindow(): [number, number] {
  const [, low, high] = presets.find(([name]) => name === first) ?? ["", 0, 1];
  return [low, high];
}

export function measure(channel = 0): void {
  const { info, voxels } = state.image!;
  const [low, high] = voxels.range(channel, 0.005);
  const full = voxels.range(channel);
  const automatic: typeof presets = [["Automatic", low, Math.max(high, low + 1e-6)], ["Full range", ...full]];
  const unit = info.units[channel] ?? "";
  const ct: typeof presets = CT.map(([name, at, wide]) => [name, at - wide / 2, at + wide / 2]);
  presets = unit === "HU" ? [...ct, ...automatic] : automatic;
  first = fitting();
  const span = full[1] - full[0];
  step = 10 ** Math.floor(Math.log10(Math.max(span, 1e-6) / 200));
  byId("window-unit").textContent = unit;
  options(preset, [...presets.map(([name]): [string, string] => [name, name]), ["", "Custom"]]);
}

/** The preset that at least half of the chosen model's structures want. */
function fitting(): string {
  const model = state.bundles.find(({ id }) => id === chosenBundle());
  const names = (model?.labels ?? []).filter(({ index }) => index > 0).map(({ name }) => name.toLowerCase().replace(/[^a-z]+/g, " "));
  const wanted = CT.find(([, , , structures]) => names.filter((name) => structures.test(name)).length * 2 >= Math.max(names.length, 1));
  return presets.find(([name]) => name === wanted?.[0])?.[0] ?? presets[0]![0];
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
  byId("bundle").addEventListener("change", () => {
    const untouched = preset.value === first;
    if (!state.image || first === (first = fitting()) || !untouched) return;
    viewer.window = firstWindow();
    showWindow(viewer);
  });
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
