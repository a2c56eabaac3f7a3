/** Clicks that tell the model what is at a voxel: it labels the slice, or the patch, anew at once. */

import * as api from "./api";
import { applyEdit, clicksDone, type Said, unsaved, watchDrawing } from "./correcting";
import { byId, make, options } from "./dom";
import { announce, explain, show } from "./messages";
import type { Nifti, Vector } from "./nifti";
import { addTool, offerTool, onStillClick, toggleTool, tool } from "./pointer";
import { chosenBundle } from "./segmenting";
import { on, state } from "./state";
import { isOn, pixelOf } from "./tiles";
import type { Bundle, LabelBox } from "./types";
import type { Viewer } from "./viewer";

const canvas = byId("canvas");
const structure = byId<HTMLSelectElement>("click-structure");
const removing = byId<HTMLInputElement>("click-removes");
const dots = byId("click-dots");
let viewer: Viewer;
/** The model looks at one click after the other: each corrects what the one before left. */
let queue: Promise<void> = Promise.resolve();

const inHand = (): boolean => tool() === "click" && !!state.image;

export function connectClicks(shown: Viewer): void {
  viewer = shown;
  viewer.drawn.push(drawDots);
  addTool("click", "Click", "Click where a structure is missing, or too much: the model corrects it (C)");
  for (const topic of ["bundles", "image", "tool"] as const) on(topic, offer);
  on("edit", drawDots);
  byId("bundle").addEventListener("change", offer);
  byId("click-ways").addEventListener("change", () => (structure.disabled = removing.checked));
  onStillClick(canvas, (event) => clickHere(event.shiftKey));
}

export function takeClicks(): void {
  if (state.image && model()?.clicks) toggleTool("click");
}

/** Click at the crosshair; return whether that is the tool in hand. Each pointer takes away where the switch says so. */
export function clickHere(removes = false): boolean {
  if (!inHand()) return false;
  const [image, labels] = [state.image!, state.labels];
  if (!labels) show("note", "There is nothing to correct yet.", "Segment the image first.");
  const said: Said = { voxel: [...state.voxel], place: viewer.place, structure: removes || removing.checked ? null : Number(structure.value) };
  queue = queue.then(async () => {
    if (labels && state.labels === labels) await ask(image.info.id, labels, said);
  });
  return true;
}

const model = (): Bundle | undefined => state.bundles.find(({ id }) => id === chosenBundle());

/** The tool is there for models with clicks alone. */
function offer(): void {
  const bundle = model();
  offerTool("click", !!bundle?.clicks);
  byId("click-options").hidden = !inHand();
  const chosen = structure.value;
  const labels = (bundle?.labels ?? []).map(({ index, name }): [string, string] => [String(index), name]);
  options(structure, labels);
  if ([...structure.options].some(({ value }) => value === chosen)) structure.value = chosen;
  drawDots();
}

async function ask(image: string, labels: Nifti, said: Said): Promise<void> {
  const bundle = model()!;
  const other = labels.structures?.find(({ index, name }) => bundle.labels.some((own) => own.index === index && own.name !== name));
  if (other) return show("error", `${bundle.name} knows no ${other.name}.`, "Choose the model that these labels are of.");
  byId("stage").classList.add("asking");
  const [seen, drawnOn] = [labels.data.slice(), watchDrawing()];
  try {
    const clicks = [...clicksDone(), said];
    const changed = unsaved() || !state.shown;
    const box = await api.sendClicks(image, {
      bundle: bundle.id,
      clicks: clicks.map(({ voxel, structure }) => ({ voxel, structure })),
      applied: clicks.length - 1,
      parent: changed ? null : state.shown!.id,
      edited: changed ? await labelledBox(labels) : null,
    });
    if (state.labels !== labels) return;
    const { indices, values } = await voxelsIn(box, labels);
    // What was drawn meanwhile stays, also where it changed nothing: the model has not seen it.
    for (const [n, index] of indices.entries())
      if (drawnOn.has(index) || labels.data[index] !== seen[index]) values[n] = labels.data[index]!;
    const count = applyEdit({ indices, values }, null, said);
    if (count) announce(`The model changed ${count} voxels.`);
    else show("note", "The model changes nothing for this click.", "Click somewhat beside it, or draw.");
  } catch (error) {
    explain(error, "Correcting by a click", () => void (queue = queue.then(() => ask(image, labels, said))));
  } finally {
    byId("stage").classList.remove("asking");
  }
}

/** The smallest box that holds all that is labelled; null where nothing is. */
async function labelledBox({ data, dims }: Nifti): Promise<LabelBox | null> {
  const [width, height] = dims as Vector;
  const [low, high]: [Vector, Vector] = [[Infinity, Infinity, Infinity], [-1, -1, -1]];
  for (let n = 0; n < data.length; n++) {
    if (!data[n]) continue;
    const at: Vector = [n % width, Math.floor(n / width) % height, Math.floor(n / (width * height))];
    for (const axis of [0, 1, 2]) {
      low[axis] = Math.min(low[axis]!, at[axis]!);
      high[axis] = Math.max(high[axis]!, at[axis]!);
    }
  }
  if (high[0] < 0) return null;
  const shape = high.map((end, axis) => end - low[axis]! + 1) as Vector;
  const values = new Uint16Array(shape[0] * shape[1] * shape[2]);
  eachVoxel({ start: low, shape }, dims, (index, n) => (values[n] = data[index]!));
  const zipped = new Blob([values]).stream().pipeThrough(new CompressionStream("gzip"));
  const bytes = new Uint8Array(await new Response(zipped).arrayBuffer());
  let text = "";
  for (let n = 0; n < bytes.length; n += 8192) text += String.fromCharCode(...bytes.subarray(n, n + 8192));
  return { start: low, shape, data: btoa(text) };
}

async function voxelsIn(box: LabelBox, { dims }: Nifti): Promise<{ indices: number[]; values: Uint16Array }> {
  const bytes = Uint8Array.from(atob(box.data), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const values = new Uint16Array(await new Response(stream).arrayBuffer());
  const indices: number[] = [];
  eachVoxel(box, dims, (index) => indices.push(index));
  return { indices, values };
}

/** Call with each voxel of a box: its index in the image's file, and in the box. */
function eachVoxel({ start, shape }: Omit<LabelBox, "data">, dims: number[], use: (index: number, n: number) => void): void {
  let n = 0;
  for (let z = 0; z < shape[2]; z++)
    for (let y = 0; y < shape[1]; y++)
      for (let x = 0; x < shape[0]; x++) use(start[0] + x + dims[0]! * (start[1] + y + dims[1]! * (start[2] + z)), n++);
}

/** A dot for each click on the planes that it lies in. */
function drawDots(): void {
  const shown = inHand() && state.labels ? clicksDone() : [];
  const scale = canvas.clientWidth / (canvas as HTMLCanvasElement).width;
  const colours = new Map(model()?.labels.map(({ index, color }) => [index, color]));
  dots.replaceChildren(
    ...viewer.tiles().flatMap((tile) =>
      shown
        .filter(({ place }) => place[tile.axis] === tile.slice && isOn(tile, pixelOf(tile, place)))
        .map(({ place, structure }) => {
          const [x, y] = pixelOf(tile, place);
          const dot = make("span", { className: structure === null ? "dot removing" : "dot", textContent: structure === null ? "−" : "+" });
          Object.assign(dot.style, { left: `${x * scale}px`, top: `${y * scale}px`, background: colours.get(structure ?? -1) ?? "" });
          return dot;
        }),
    ),
  );
}
