/** Attention: where the network looks from a point of a slice, as a heat map over that slice. */

import * as api from "./api";
import { byId, options } from "./dom";
import { announce, explain } from "./messages";
import { placedIn, readNifti, type Vector } from "./nifti";
import { addTool, toggleTool, tool } from "./pointer";
import { chosenBundle } from "./segmenting";
import { on, state } from "./state";
import type { Viewer } from "./viewer";

/** Of a slice: a few places without content often draw most attention, and would leave all else dark. */
const SINKS = 0.07;
/** Of the brightest; below it the heat map fades, and the image shows. */
const SOLID = 0.7;

const layer = byId<HTMLSelectElement>("layer");
const head = byId<HTMLSelectElement>("head");
const slider = byId<HTMLInputElement>("attention-opacity");
const text = byId("attention-text");
const HOW = "Click a point on a slice, or press Enter at the crosshair.";
let at: Vector | null = null;
let asking: AbortController | null = null;
let viewer: Viewer;

const TOOL = "attention";
export const attentionOn = (): boolean => tool() === TOOL;
export const toggleAttention = (): void => toggleTool(TOOL);

export function connectAttention(shown: Viewer): void {
  viewer = shown;
  addTool(TOOL, "Attention", "Where the network looks from a point that you click (A)");
  let active = false;
  on("tool", () => {
    if (active === attentionOn()) return;
    active = attentionOn();
    byId("attention-section").hidden = !active;
    viewer.setLabelsStrength(active ? 0 : 1);
    if (!active) clear();
  });
  for (const each of [layer, head]) each.addEventListener("change", () => void (chooseHead(), ask()));
  byId("bundle").addEventListener("change", () => (choices(), ask()));
  slider.addEventListener("input", () => {
    byId("attention-opacity-text").textContent = `${slider.value} %`;
    viewer.setHeatOpacity(Number(slider.value) / 100);
  });
  on("bundles", choices);
  on("image", clear);
}

function clear(): void {
  asking?.abort();
  at = null;
  text.textContent = HOW;
  byId("attention-scale").hidden = true;
  void viewer.showHeat(null);
}

function choices(): void {
  const bundle = state.bundles.find(({ id }) => id === chosenBundle());
  const numbers = (count: number): [string, string][] =>
    Array.from({ length: count }, (_, n) => [String(n), `${n + 1} of ${count}`]);
  options(layer, [["rollout", "All layers (roll-out)"], ...numbers(bundle?.layers ?? 0)]);
  options(head, [["mean", "Mean of the heads"], ...numbers(bundle?.heads ?? 0)]);
  chooseHead();
}

/** The roll-out takes the mean of the heads. */
function chooseHead(): void {
  head.disabled = layer.value === "rollout";
  if (head.disabled) head.value = "mean";
}

/** Ask at the crosshair; return whether that is the tool in hand. */
export function askHere(): boolean {
  if (!attentionOn() || !state.image) return false;
  at = [...state.voxel];
  ask();
  return true;
}

const choice = <T extends string>(value: string): number | T => (/^\d+$/.test(value) ? Number(value) : (value as T));

function ask(): void {
  if (attentionOn() && at && state.image) void fetchMap(at);
}

async function fetchMap(voxel: Vector): Promise<void> {
  asking?.abort();
  const mine = (asking = new AbortController());
  const query = { bundle: chosenBundle(), voxel, layer: choice<"rollout">(layer.value), head: choice<"mean">(head.value) };
  text.textContent = `Asking the network at voxel ${voxel.join(", ")}…`;
  try {
    const map = await readNifti(await api.attention(state.image!.info.id, query, mine.signal));
    if (mine.signal.aborted || !state.image) return;
    const [, top] = map.range(0, SINKS);
    await viewer.showHeat(placedIn(state.image.voxels, map, voxel), Number(slider.value) / 100, top, SOLID);
    const [, strongest] = map.range();
    byId("attention-scale").hidden = false;
    byId("attention-top").textContent = `${Math.round((100 * top) / strongest)} % of the strongest`;
    text.textContent = `From voxel ${voxel.join(", ")}. Click another point to ask there.`;
    announce("Attention shown.");
  } catch (error) {
    if (mine.signal.aborted) return;
    text.textContent = HOW;
    explain(error, "Showing attention", ask);
  }
}
