/** The pen on the image: draw, erase, fill an outline, and what lies between two slices that were drawn in. */

import { addStructure, applyEdit, drawnSlices, Edit, redo, redoable, redraw, saveCorrection, undo, undoable, unsaved } from "./correcting";
import { byId, options } from "./dom";
import type { Shortcut } from "./keys";
import { announce, show } from "./messages";
import { labelsLike } from "./nifti";
import { addTool, penInHand, toggleTool, tool } from "./pointer";
import { axis, setPlane } from "./position";
import { chosenBundle } from "./segmenting";
import { alongStroke, between, closedRegion, indexOf, type Mask, type Point } from "./shapes";
import { changed, on, state } from "./state";
import { reveal } from "./structures";
import { canvasPixel, isOn, placeAt, type Tile } from "./tiles";
import type { Label } from "./types";
import type { Viewer } from "./viewer";

const NEW = "new";
/** As `transunet.colours` has them. */
const COLOURS = ["#4fc3f7", "#ffb74d", "#81c784", "#f06292", "#fff176", "#b39ddb", "#4dd0c4", "#ff8a65", "#aed581", "#ce93d8"];

const stage = byId("stage");
const canvas = byId<HTMLCanvasElement>("canvas");
const ring = byId("brush-ring");
const structure = byId<HTMLSelectElement>("draw-structure");
const size = byId<HTMLInputElement>("brush-size");
const ball = byId<HTMLInputElement>("brush-ball");
const over = byId<HTMLSelectElement>("draw-over");
const newName = byId<HTMLInputElement>("structure-name");

let viewer: Viewer;
let stroke: { edit: Edit; tile: Tile; last: Point; pointer: number; label: number } | null = null;

export const CORRECTING: Shortcut[] = [
  { keys: ["t"], what: "Draw", use: () => take("draw") },
  { keys: ["e"], what: "Erase", use: () => take("erase") },
  { keys: ["f"], what: "Fill a closed outline", use: () => take("fill") },
  { keys: [" "], what: "The same at the crosshair", use: useHere, onImage: true },
  { keys: ["<", ">"], what: "Smaller, larger brush", use: (key) => resize(key === "<" ? -1 : 1) },
  { keys: ["q"], what: "Next structure", use: nextStructure },
  { keys: ["i"], what: "Fill between two drawn slices", use: interpolate },
  { keys: ["z", "Ctrl+z"], what: "Undo", use: undo },
  { keys: ["y", "Ctrl+y"], hidden: ["Ctrl+Z"], what: "Redo", use: redo },
];

export function connectPen(shown: Viewer): void {
  viewer = shown;
  addTool("draw", "Draw", "Draw with the brush (T)");
  addTool("erase", "Erase", "Erase with the brush (E)");
  addTool("fill", "Fill", "Fill a closed outline (F)");
  on("tool", showTool);
  for (const topic of ["labels", "structures", "bundles"] as const) on(topic, showStructures);
  on("image", () => (showStructures(), showTool(), showSize()));
  on("edit", showSteps);
  on("labels", () => (stroke = null)); // what it was drawn on is no more
  size.addEventListener("input", showSize);
  byId("bundle").addEventListener("change", showStructures);
  structure.addEventListener("change", () => (structure.value === NEW ? askStructure() : showColour()));
  byId("structure-form").addEventListener("submit", () => newStructure(newName.value.trim()));
  byId("structure-dialog").addEventListener("close", showStructures);
  for (const [id, use] of [["undo", undo], ["redo", redo], ["interpolate", interpolate]] as const) byId(id).addEventListener("click", use);
  byId("save-correction").addEventListener("click", () => void saveCorrection());
  // On the way down to the canvas, where NiiVue listens.
  stage.addEventListener("pointerdown", begin, { capture: true });
  for (const event of ["mousedown", "touchstart", "touchmove", "touchend", "dblclick"])
    stage.addEventListener(event, (each) => keepFromViewer(each as MouseEvent | TouchEvent), { capture: true });
  canvas.addEventListener("pointermove", move);
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", cancel);
  canvas.addEventListener("pointerleave", () => (ring.hidden = true));
}

/** What can be drawn: the structures of the labels that are shown, or of the chosen model. */
function structures(): Label[] {
  if (state.labels) return state.labels.structures;
  return state.bundles.find(({ id }) => id === chosenBundle())?.labels ?? [];
}

function take(next: string): void {
  if (state.image) toggleTool(next);
}

/** What only a drawing hand needs is away while nothing is drawn. */
function showButtons(): void {
  const drawing = penInHand() && !!state.image;
  byId("steps").hidden = !drawing && !undoable() && !redoable();
  byId("saving").hidden = !drawing && !unsaved();
}

function showTool(): void {
  const drawing = penInHand() && !!state.image;
  byId("correct-section").hidden = !state.image;
  byId("pen-options").hidden = !drawing;
  byId("correct-hint").hidden = drawing || tool() === "click";
  ring.hidden = true; // until the pointer moves
  showButtons();
  if (drawing && !structures().length) askStructure();
}

function showSteps(): void {
  byId<HTMLButtonElement>("undo").disabled = !undoable();
  byId<HTMLButtonElement>("redo").disabled = !redoable();
  byId<HTMLButtonElement>("save-correction").disabled = !unsaved();
  byId("unsaved").textContent = unsaved() ? "Not saved yet." : "";
  showButtons();
}

/** The structures that can be drawn, and drawn over. */
function showStructures(): void {
  const labels = structures();
  const entries = labels.map(({ index, name }): [string, string] => [String(index), name]);
  const [kept, keptOver] = [structure.value, over.value];
  options(structure, [...entries, [NEW, "Add a structure…"]]);
  structure.value = entries.some(([value]) => value === kept) ? kept : entries[0]?.[0] ?? NEW;
  options(over, [["", "everything"], ["0", "background only"], ...entries.map(([value, name]): [string, string] => [value, `${name} only`])]);
  over.value = keptOver;
  if (over.selectedIndex < 0) over.value = "";
  showColour();
}

function showColour(): void {
  structure.style.borderLeftColor = structures().find(({ index }) => index === Number(structure.value))?.color ?? "";
}

function nextStructure(): void {
  if (structure.options.length < 3) return;
  structure.selectedIndex = (structure.selectedIndex + 1) % (structure.options.length - 1);
  showColour();
  announce(`Drawing ${structure.selectedOptions[0]!.text}.`);
}

function askStructure(): void {
  newName.value = "";
  byId<HTMLDialogElement>("structure-dialog").showModal();
}

function newStructure(name: string): void {
  if (!name || !state.image) return;
  const taken = structures();
  const same = taken.find((each) => each.name === name);
  const index = same?.index ?? Math.max(0, ...taken.flatMap(({ index, members }) => [index, ...members])) + 1;
  if (index > 255) return show("error", "There are 255 structures already.", "Draw one of these.");
  begins();
  if (!same) addStructure({ index, name, color: COLOURS[(index - 1) % COLOURS.length]!, members: [index] });
  showStructures();
  structure.value = String(index);
  showColour();
}

/** An empty label map of the chosen model's structures, where nothing was segmented. */
function begins(): void {
  if (state.labels || !state.image) return;
  const known = structures();
  state.labels = labelsLike(state.image.voxels);
  state.labels.structures = known;
  state.shown = null;
  const kept = structure.value;
  viewer.showLabels(state.labels, state.labels.structures);
  changed("labels");
  structure.value = kept;
}

/** A brush is as wide as some of the finest edges of a voxel. */
function diameter(): number {
  const { sizes } = viewer.grid;
  return Number(size.value) * Math.min(...sizes);
}

function showSize(): void {
  if (!state.image) return;
  const picture = state.image.info.kind === "picture";
  byId("brush-size-text").textContent = picture ? `${size.value} px` : `${Number(diameter().toPrecision(2))} mm`;
  byId("ball-row").hidden = picture;
}

function resize(by: number): void {
  const value = Number(size.value);
  size.value = String(value + by * Math.max(1, Math.round(value / 8)));
  showSize();
  announce(`Brush of ${byId("brush-size-text").textContent}.`);
}

/** Which plane an event is on, and where within the image. */
function placeOf(event: PointerEvent): { tile: Tile; point: Point } | null {
  const at = canvasPixel(event, canvas);
  const tile = viewer.tiles().find((each) => isOn(each, at));
  return tile ? { tile, point: pointIn(tile, event) } : null;
}

/** In voxels from the image's outer corner, half a voxel before its first one's centre. */
const pointIn = (tile: Tile, event: PointerEvent): Point =>
  placeAt(tile, canvasPixel(event, canvas)).map((at) => at + 0.5) as Point;

function begin(event: PointerEvent): void {
  if (stroke) return cancel(); // a second finger: the two zoom
  if (!penInHand() || event.button !== 0 || event.target !== canvas) return;
  const place = placeOf(event);
  if (!place) return;
  begins();
  setPlane(viewer, place.tile.axis);
  const label = Number(structure.value);
  reveal(label, viewer);
  if (tool() === "fill") return fillAt(place.point, place.tile.axis);
  stroke = { edit: new Edit(), tile: place.tile, last: place.point, pointer: event.pointerId, label };
  canvas.setPointerCapture(event.pointerId);
  paint(place.point);
}

function move(event: PointerEvent): void {
  showRing(event);
  if (!stroke || event.pointerId !== stroke.pointer) return;
  // A fast hand moves several times between two pictures.
  for (const each of event.getCoalescedEvents?.() ?? []) paint(pointIn(stroke.tile, each));
  paint(pointIn(stroke.tile, event));
}

function end(event: PointerEvent): void {
  if (!stroke || event.pointerId !== stroke.pointer) return;
  const { edit, tile, label } = stroke;
  stroke = null;
  edit.end({ label, axis: tile.axis, slice: tile.slice });
}

function cancel(): void {
  stroke?.edit.cancel();
  stroke = null;
}

/** What a drawing tool does, the viewer is not told; of two fingers it is. */
function keepFromViewer(event: MouseEvent | TouchEvent): void {
  if (!penInHand() || event.target !== canvas) return;
  const several = "touches" in event && event.touches.length > 1;
  if (!several && (!("button" in event) || event.button === 0)) event.stopImmediatePropagation();
}

/** Whether a voxel of this value may be changed. */
function mayChange(value: number, label: number): boolean {
  if (over.value === "") return true;
  const only = Number(over.value);
  return value === only || (value === label && only === 0);
}

function paint(point: Point): void {
  const { edit, tile, last, label } = stroke!;
  draw(edit, tile.axis, last, point, label);
  stroke!.last = point;
}

function draw(edit: Edit, across: number, from: Point, to: Point, label: number): void {
  const data = state.labels!.data;
  const value = tool() === "erase" ? 0 : label;
  const inPlane = !ball.checked || state.image!.info.kind === "picture";
  alongStroke(viewer.grid, from, to, diameter() / 2, across, !inPlane, (index) => {
    if (mayChange(data[index]!, label)) edit.set(index, value);
  });
  redraw();
}

function fillAt(point: Point, across: number): void {
  const voxel = point.map(Math.floor) as Point;
  const { grid } = viewer;
  if (!voxel.every((at, each) => at >= 0 && at < grid.extents[each]!)) return;
  const data = state.labels!.data;
  const region = closedRegion(grid, data, voxel, across);
  if (!region) return show("note", "The outline is not closed in this slice.", "Draw it to its end, and fill it then.");
  const label = Number(structure.value);
  const indices = region.filter((index) => mayChange(data[index]!, label));
  const count = applyEdit({ indices, values: label }, { label, axis: across, slice: voxel[across]! });
  announce(`${count} voxels filled.`);
}

/** With the keyboard: what the tool does, at the crosshair and in the plane that is scrolled through. */
function useHere(): void {
  if (!penInHand() || !state.image) return;
  begins();
  const [across, label] = [axis(), Number(structure.value)];
  reveal(label, viewer);
  const point = viewer.place.map((at) => at + 0.5) as Point;
  if (tool() === "fill") return fillAt(point, across);
  const edit = new Edit();
  draw(edit, across, point, point, label);
  const count = edit.end({ label, axis: across, slice: viewer.place[across]! });
  announce(`${count} voxels ${tool() === "erase" ? "erased" : "drawn"}.`);
}

/** Give the slices between the two nearest that a structure was drawn in shapes between theirs. */
function interpolate(): void {
  if (!state.labels) return;
  const [across, label, { grid }] = [axis(), Number(structure.value), viewer];
  const slices = drawnSlices(label, across).filter((slice) => maskOf(slice, across, label).inside.includes(1));
  const pair = gapAt(slices, viewer.place[across]!);
  if (!pair) {
    const name = structure.selectedOptions[0]?.text;
    return show("note", `Draw ${name} in two slices that are not neighbours, and go to one of them or between.`);
  }
  const [first, second] = pair;
  const sizes = [0, 1, 2].filter((each) => each !== across).map((each) => grid.sizes[each]!) as [number, number];
  const shapes = between(maskOf(first, across, label), maskOf(second, across, label), sizes, second - first - 1);
  const edit = new Edit();
  shapes.forEach((inside, n) => {
    eachVoxel(first + 1 + n, across, (index, at) => {
      const before = state.labels!.data[index]!;
      if (inside[at] && before !== label && mayChange(before, label)) edit.set(index, label);
      if (!inside[at] && before === label) edit.set(index, 0);
    });
  });
  const count = edit.end();
  announce(`${second - first - 1} slices filled in between, ${count} voxels.`);
}

/** The two neighbours among sorted slices with others between them that lie around one, or end at it. */
function gapAt(slices: number[], at: number): [number, number] | null {
  const pairs = slices.slice(1).map((slice, n): [number, number] => [slices[n]!, slice]);
  return pairs.find(([first, second]) => second - first > 1 && first <= at && at <= second) ?? null;
}

function maskOf(slice: number, across: number, label: number): Mask {
  const [width, height] = [0, 1, 2].filter((each) => each !== across).map((each) => viewer.grid.extents[each]!) as [number, number];
  const inside = new Uint8Array(width * height);
  eachVoxel(slice, across, (index, at) => (inside[at] = state.labels!.data[index] === label ? 1 : 0));
  return { width, height, inside };
}

/** Go through a slice, row by row. */
function eachVoxel(slice: number, across: number, use: (index: number, at: number) => void): void {
  const { grid } = viewer;
  const [u, v] = [0, 1, 2].filter((each) => each !== across) as [number, number];
  const voxel: Point = [0, 0, 0];
  voxel[across] = slice;
  const first = indexOf(grid, voxel);
  for (let row = 0, at = 0; row < grid.extents[v]!; row++)
    for (let column = 0; column < grid.extents[u]!; column++) use(first + column * grid.stride[u]! + row * grid.stride[v]!, at++);
}

/** The brush's size, where the pointer is. */
function showRing(event: PointerEvent): void {
  const place = tool() === "draw" || tool() === "erase" ? placeOf(event) : null;
  ring.hidden = !place || event.pointerType === "touch";
  if (!place) return;
  const { left, top } = stage.getBoundingClientRect();
  const { tile } = place;
  const shown = canvas.getBoundingClientRect().width / canvas.width;
  const across = (each: 0 | 1, along: number): number => Math.max(4, (Math.abs(tile.step[each]) * shown * diameter()) / viewer.grid.sizes[along]!);
  Object.assign(ring.style, {
    left: `${event.clientX - left}px`,
    top: `${event.clientY - top}px`,
    width: `${across(0, tile.across)}px`,
    height: `${across(1, tile.up)}px`,
  });
}
