/** Distances and regions that are drawn on a plane and stay in its slice: in mm, and what the voxels within hold. */

import { byId, fixed, link, make, quiet, trash } from "./dom";
import { announce } from "./messages";
import type { Vector } from "./nifti";
import { addTool, setTool, tool } from "./pointer";
import { axis } from "./position";
import { drawScaleBar } from "./scale_bar";
import { on, state } from "./state";
import { canvasPixel, drawOnTiles, fontOf, isOn, pixelOf, placeAt, type Tile, writeText } from "./tiles";
import type { Viewer } from "./viewer";

type Kind = "distance" | "region";

/** Points along right, anterior, superior, in voxels: their centres are whole numbers. */
interface Measure {
  kind: Kind;
  axis: number;
  /** The ends of a line; opposite corners of the box around an ellipse. */
  ends: [Vector, Vector];
  told: string;
}

const COLOUR = "#63e6ff";
const HALO = "#000000";
/** In CSS pixels: how near a click takes an end, and how far one is dragged at least. */
const NEAR_PX = 9;
const STILL_PX = 3;
const KINDS: Kind[] = ["distance", "region"];
const PLANES = ["sagittal", "coronal", "axial"];

const canvas = byId<HTMLCanvasElement>("measures");
const context = canvas.getContext("2d")!;
const image = byId<HTMLCanvasElement>("canvas");
let viewer: Viewer;
let measures: Measure[] = [];
let selected: Measure | null = null;
/** The measure whose end of this number follows the pointer. */
let dragged: { measure: Measure; end: 0 | 1; start: [number, number] } | null = null;
/** Where the keyboard began a measure. */
let begun: Vector | null = null;

const measuring = (): boolean => KINDS.some((kind) => kind === tool());

export function connectMeasuring(shown: Viewer): void {
  viewer = shown;
  viewer.drawn.push(draw);
  addTool("distance", "Distance", "Drag a line to measure it (M)");
  addTool("region", "Region", "Drag an ellipse: its area, and the mean and deviation of what is within (M, M)");
  on("tool", () => {
    begun = null;
    byId("stage").classList.toggle("measuring", measuring());
  });
  on("image", () => {
    measures = [];
    select(null);
  });
  byId("frame").addEventListener("change", () => {
    for (const each of measures) each.told = told(each);
    select(selected);
  });
  const stage = byId("stage");
  // Before NiiVue, which listens on the canvas.
  stage.addEventListener("pointerdown", press, { capture: true });
  for (const name of ["mousedown", "touchstart"])
    stage.addEventListener(name, (event) => measuring() && !(event as MouseEvent).button && event.target === image && event.stopPropagation(), { capture: true });
  image.addEventListener("pointermove", (event) => dragged && (move(event), draw()));
  for (const name of ["pointerup", "pointercancel"]) image.addEventListener(name, (event) => release(event as PointerEvent));
}

/** Go from looking to distances, to regions, and back. */
export function nextMeasuring(): void {
  setTool(tool() === "distance" ? "region" : tool() === "region" ? "look" : "distance");
}

/** Set one end at the crosshair, then the other; return whether something is being measured. */
export function measureAtCrosshair(): boolean {
  if (!measuring() || !state.image) return false;
  const place = viewer.place;
  if (begun?.[axis()] === place[axis()]) {
    keep({ kind: tool() as Kind, axis: axis(), ends: [begun!, place], told: "" });
    begun = null;
  } else {
    begun = place;
    announce("First point set. Move the crosshair, and press Enter again.");
  }
  return true;
}

export function removeSelected(): void {
  if (!selected) return;
  measures = measures.filter((each) => each !== selected);
  select(null);
  announce("Measurement deleted.");
}

function press(event: PointerEvent): void {
  if (event.target !== image || event.button || !measuring() || !state.image) return;
  event.stopPropagation();
  event.preventDefault();
  image.focus();
  const at = canvasPixel(event, image);
  const tile = viewer.tiles().find((each) => isOn(each, at));
  if (!tile) return;
  image.setPointerCapture(event.pointerId);
  const taken = endAt(at, tile);
  const place = placeAt(tile, at);
  const measure: Measure = taken?.measure ?? { kind: tool() as Kind, axis: tile.axis, ends: [place, place], told: "" };
  dragged = { measure, end: taken?.end ?? 1, start: at };
  if (taken) select(measure);
}

function move(event: PointerEvent): void {
  const { measure, end, start } = dragged!;
  const at = canvasPixel(event, image);
  const tile = viewer.tiles().find((each) => shows(each, measure));
  if (!tile) return;
  const far = Math.hypot(at[0] - start[0], at[1] - start[1]) >= STILL_PX * devicePixelRatio;
  if (!measures.includes(measure) && !far) return;
  if (!measures.includes(measure)) measures.push(measure);
  measure.ends[end] = placeAt(tile, at);
  measure.told = told(measure);
}

function release(event: PointerEvent): void {
  if (!dragged) return;
  const { measure } = dragged;
  dragged = null;
  image.releasePointerCapture(event.pointerId);
  if (measures.includes(measure)) keep(measure);
}

function keep(measure: Measure): void {
  measure.told = told(measure);
  if (!measures.includes(measure)) measures.push(measure);
  select(measure);
  announce(measure.told);
}

function select(measure: Measure | null): void {
  selected = measure;
  list();
  draw();
}

/** A measure's end that lies near a place on the screen. */
function endAt(at: [number, number], tile: Tile): { measure: Measure; end: 0 | 1 } | null {
  for (const measure of measures.filter((each) => shows(tile, each)))
    for (const end of [0, 1] as const) {
      const [x, y] = pixelOf(tile, measure.ends[end]);
      if (Math.hypot(x - at[0], y - at[1]) <= NEAR_PX * devicePixelRatio) return { measure, end };
    }
  return null;
}

const shows = (tile: Tile, { axis, ends }: Measure): boolean => tile.axis === axis && tile.slice === ends[0][axis];

/** In millimetres of the patient, also where the grid is oblique. */
const mm = (place: Vector): Vector => state.image!.voxels.mm(viewer.fileVoxel(place));

const difference = (a: Vector, b: Vector): Vector => [a[0] - b[0], a[1] - b[1], a[2] - b[2]];

/** What is measured, in words. */
function told({ kind, axis, ends: [a, b] }: Measure): string {
  const unit = state.image!.info.kind === "picture" ? "px" : "mm";
  if (kind === "distance") return `${fixed(Math.hypot(...difference(mm(a), mm(b))), 1)} ${unit}`;
  const [across, up] = [0, 1, 2].filter((each) => each !== axis) as [number, number];
  const [width, height] = [across, up].map((each) => Math.abs(a[each]! - b[each]!)) as [number, number];
  const area = `${rounded((Math.PI / 4) * width * height * pixelArea(across, up))} ${unit}²`;
  return [area, ...shownChannels().map((channel) => statistics(valuesWithin(axis, a, b, channel), channel))].join(" · ");
}

/** Of one voxel's face, in mm². */
function pixelArea(across: number, up: number): number {
  const [origin, u, v]: [Vector, Vector, Vector] = [[0, 0, 0], [0, 0, 0], [0, 0, 0]];
  [u[across], v[up]] = [1, 1];
  const [x, y] = [difference(mm(u), mm(origin)), difference(mm(v), mm(origin))];
  return Math.hypot(x[1] * y[2] - x[2] * y[1], x[2] * y[0] - x[0] * y[2], x[0] * y[1] - x[1] * y[0]);
}

/** Colours are three channels at once; of others one is shown. */
function shownChannels(): number[] {
  const { info, voxels } = state.image!;
  return info.kind === "picture" ? Array.from({ length: voxels.channels }, (_, n) => n) : [Number(byId<HTMLSelectElement>("frame").value)];
}

/** The values of the voxels whose centres lie in the ellipse within the box of `a` and `b`. */
function valuesWithin(axis: number, a: Vector, b: Vector, channel: number): number[] {
  const { voxels } = state.image!;
  const [across, up] = [0, 1, 2].filter((each) => each !== axis) as [number, number];
  const centre = (each: number): number => (a[each]! + b[each]!) / 2;
  const radius = (each: number): number => Math.abs(a[each]! - b[each]!) / 2;
  const from = (each: number): number => Math.max(0, Math.ceil(centre(each) - radius(each)));
  const to = (each: number): number => Math.min(viewer.extents[each]! - 1, Math.floor(centre(each) + radius(each)));
  const off = (place: Vector, each: number): number => ((place[each]! - centre(each)) / radius(each)) ** 2;
  const found: number[] = [];
  const place: Vector = [0, 0, 0];
  place[axis] = a[axis]!;
  for (place[up] = from(up); place[up]! <= to(up); place[up]! += 1)
    for (place[across] = from(across); place[across]! <= to(across); place[across]! += 1)
      if (off(place, across) + off(place, up) <= 1) found.push(voxels.value(viewer.fileVoxel(place), channel));
  return found;
}

function statistics(values: number[], channel: number): string {
  if (!values.length) return "no voxel's centre within";
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const deviation = Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length);
  const unit = state.image!.info.units[channel] ?? "";
  return `mean ${rounded(mean)} ± ${rounded(deviation)} ${unit}`.trim();
}

const rounded = (value: number): string => String(Number(value.toPrecision(4)));

function draw(): void {
  drawOnTiles(context, image, state.image ? viewer.tiles() : [], (tile) => {
    drawScaleBar(context, tile, pixelsPerUnit(tile), state.image!.info.kind === "picture");
    for (const measure of measures) if (shows(tile, measure)) drawMeasure(tile, measure);
  });
}

/** Along the screen, per millimetre. */
function pixelsPerUnit({ across, step }: Tile): number {
  const one: Vector = [0, 0, 0];
  one[across] = 1;
  return Math.abs(step[0]) / Math.hypot(...difference(mm(one), mm([0, 0, 0])));
}

function drawMeasure(tile: Tile, measure: Measure): void {
  const [a, b] = measure.ends.map((end) => pixelOf(tile, end)) as [[number, number], [number, number]];
  const path = new Path2D();
  if (measure.kind === "distance") {
    path.moveTo(...a);
    path.lineTo(...b);
  } else {
    path.ellipse((a[0] + b[0]) / 2, (a[1] + b[1]) / 2, Math.abs(a[0] - b[0]) / 2, Math.abs(a[1] - b[1]) / 2, 0, 0, 2 * Math.PI);
  }
  for (const end of [a, b]) {
    path.moveTo(end[0] + 3 * devicePixelRatio, end[1]);
    path.arc(...end, 3 * devicePixelRatio, 0, 2 * Math.PI);
  }
  for (const [style, width] of [[HALO, 4], [COLOUR, measure === selected ? 2.5 : 1.5]] as const) {
    context.strokeStyle = style;
    context.lineWidth = width * devicePixelRatio;
    context.stroke(path);
  }
  write(measure.told, tile, Math.max(a[0], b[0]), Math.max(a[1], b[1]));
}

/** Beside a place, within the plane. */
function write(text: string, { rect: [left, top, width, height] }: Tile, x: number, y: number): void {
  const size = 13 * devicePixelRatio;
  const font = (context.font = fontOf(13));
  const room = context.measureText(text).width + 8 * devicePixelRatio;
  const at = [Math.max(left + size / 2, Math.min(x + size / 2, left + width - room)), Math.max(top + size, Math.min(y + size, top + height - size / 2))] as const;
  writeText(context, text, ...at, font, COLOUR);
}

function list(): void {
  byId("measures-section").hidden = !measures.length;
  byId("measured").replaceChildren(...measures.map(item));
}

function item(measure: Measure): HTMLLIElement {
  const { axis, ends: [a, b], told } = measure;
  const open = link(told, measure === selected, () => {
    viewer.moveTo(mm(a.map((value, n) => Math.round((value + b[n]!) / 2)) as Vector));
    select(measure);
  });
  open.title = "Go there";
  const remove = trash(`Delete ${told}`, () => (select(measure), removeSelected()));
  remove.title = "Delete (Delete)";
  return make("li", {}, open, remove, quiet(`${PLANES[axis]} ${a[axis]! + 1}`));
}
