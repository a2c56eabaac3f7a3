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

type Kind = "distance" | "region" | "freehand";

/** Points along right, anterior, superior, in voxels: their centres are whole numbers. */
interface Measure {
  kind: Kind;
  axis: number;
  /** The ends of a line; opposite corners of the box around an ellipse; the corners of what is drawn by hand. */
  points: Vector[];
  told: string;
}

const COLOUR = "#63e6ff";
const HALO = "#000000";
/** In CSS pixels: how near a click takes an end, and how far one is dragged at least. */
const NEAR_PX = 9;
const STILL_PX = 3;
const KINDS: Kind[] = ["distance", "region", "freehand"];
/** What is measured of each image, by its id. */
const KEPT = "transunet-measures";
const PLANES = ["sagittal", "coronal", "axial"];

const canvas = byId<HTMLCanvasElement>("measures");
const context = canvas.getContext("2d")!;
const image = byId<HTMLCanvasElement>("canvas");
let viewer: Viewer;
let measures: Measure[] = [];
let selected: Measure | null = null;
/** The measure whose point of this number follows the pointer. */
let dragged: { measure: Measure; point: number; last: [number, number] } | null = null;
/** What the keyboard set of a measure so far. */
let begun: Vector[] = [];

const measuring = (): boolean => KINDS.some((kind) => kind === tool());

export function connectMeasuring(shown: Viewer): void {
  viewer = shown;
  viewer.drawn.push(draw);
  addTool("distance", "Distance", "Drag a line to measure it (M)");
  addTool("region", "Region", "Drag an ellipse: its area, and the mean and deviation of what is within (M, M)");
  addTool("freehand", "Freehand", "Draw around a region: its area, and the mean and deviation of what is within (M, M, M)");
  on("tool", () => (begun = []));
  on("image", () => {
    measures = keptMeasures()[state.image!.info.id] ?? [];
    for (const each of measures) each.told = told(each);
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

/** Go from looking to distances, to regions, to those drawn by hand, and back. */
export function nextMeasuring(): void {
  setTool(KINDS[KINDS.findIndex((kind) => kind === tool()) + 1] ?? "look");
}

/** Set a point at the crosshair, and with the last one measure; return whether that is the tool in hand. */
export function measureAtCrosshair(): boolean {
  if (!measuring() || !state.image) return false;
  const [kind, place] = [tool() as Kind, viewer.place];
  if (begun[0]?.[axis()] !== place[axis()]) begun = [];
  const again = begun.at(-1)?.every((each, n) => each === place[n]) ?? false;
  if (!again) begun.push(place);
  if (kind === "freehand" ? again && begun.length > 2 : begun.length > 1) {
    keep({ kind, axis: axis(), points: begun, told: "" });
    begun = [];
  } else {
    announce(kind === "freehand" ? "Point set. Enter twice at the last one closes the outline." : "First point set. Move the crosshair, and press Enter again.");
  }
  return true;
}

/** Delete what is selected; return whether that was meant. */
export function removeSelected(): boolean {
  if (!selected || tool() === "click") return false;
  measures = measures.filter((each) => each !== selected);
  store();
  select(null);
  announce("Measurement deleted.");
  return true;
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
  const measure: Measure = taken?.measure ?? { kind: tool() as Kind, axis: tile.axis, points: [place, place], told: "" };
  dragged = { measure, point: taken?.point ?? 1, last: at };
  if (taken) select(measure);
}

function move(event: PointerEvent): void {
  const { measure, last } = dragged!;
  const at = canvasPixel(event, image);
  const tile = viewer.tiles().find((each) => shows(each, measure));
  if (!tile) return;
  const far = Math.hypot(at[0] - last[0], at[1] - last[1]) >= STILL_PX * devicePixelRatio;
  if (!far && (measure.kind === "freehand" || !measures.includes(measure))) return;
  if (!measures.includes(measure)) measures.push(measure);
  measure.points[dragged!.point] = placeAt(tile, at);
  if (measure.kind === "freehand") dragged = { measure, point: measure.points.length, last: at };
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
  store();
  select(measure);
  announce(measure.told);
}

const keptMeasures = (): Record<string, Measure[]> => JSON.parse(localStorage.getItem(KEPT) ?? "{}") as Record<string, Measure[]>;

/** Keep them in this browser, also when the page is loaded anew. */
function store(): void {
  localStorage.setItem(KEPT, JSON.stringify({ ...keptMeasures(), [state.image!.info.id]: measures }));
}

/** Forget what was measured of images that the server has no more. */
export function forgetMeasures(images: string[]): void {
  const kept = Object.entries(keptMeasures()).filter(([id, each]) => images.includes(id) && each.length);
  localStorage.setItem(KEPT, JSON.stringify(Object.fromEntries(kept)));
}

function select(measure: Measure | null): void {
  selected = measure;
  list();
  draw();
}

/** The end of a line, or corner around an ellipse, that lies near a place on the screen. */
function endAt(at: [number, number], tile: Tile): { measure: Measure; point: number } | null {
  for (const measure of measures.filter((each) => shows(tile, each) && each.kind !== "freehand"))
    for (const [point, place] of measure.points.entries()) {
      const [x, y] = pixelOf(tile, place);
      if (Math.hypot(x - at[0], y - at[1]) <= NEAR_PX * devicePixelRatio) return { measure, point };
    }
  return null;
}

const shows = (tile: Tile, { axis, points }: Measure): boolean => tile.axis === axis && tile.slice === points[0]![axis];

/** The axes that run along a measure's plane. */
const axesOf = ({ axis }: Measure): [across: number, up: number] => [0, 1, 2].filter((each) => each !== axis) as [number, number];

/** In millimetres of the patient, also where the grid is oblique. */
const mm = (place: Vector): Vector => state.image!.voxels.mm(viewer.fileVoxel(place));

const difference = (a: Vector, b: Vector): Vector => [a[0] - b[0], a[1] - b[1], a[2] - b[2]];

/** What is measured, in words. */
function told(measure: Measure): string {
  const unit = state.image!.info.kind === "picture" ? "px" : "mm";
  const [a, b] = measure.points as [Vector, Vector];
  if (measure.kind === "distance") return `${fixed(Math.hypot(...difference(mm(a), mm(b))), 1)} ${unit}`;
  const area = `${rounded(pixelsWithin(measure) * pixelArea(...axesOf(measure)))} ${unit}²`;
  return [area, ...shownChannels().map((channel) => statistics(valuesWithin(measure, channel), channel))].join(" · ");
}

/** The area of a region, in voxels' faces. */
function pixelsWithin(measure: Measure): number {
  const { kind, points } = measure;
  const [across, up] = axesOf(measure);
  const [a, b] = points as [Vector, Vector];
  if (kind === "region") return (Math.PI / 4) * Math.abs((a[across]! - b[across]!) * (a[up]! - b[up]!));
  const twice = points.reduce((sum, p, n) => sum + p[across]! * next(points, n)[up]! - next(points, n)[across]! * p[up]!, 0);
  return Math.abs(twice) / 2;
}

const next = (points: Vector[], n: number): Vector => points[(n + 1) % points.length]!;

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

/** The values of the voxels whose centres lie in a region. */
function valuesWithin(measure: Measure, channel: number): number[] {
  const { axis, kind, points } = measure;
  const { voxels } = state.image!;
  const [across, up] = axesOf(measure);
  const from = (each: number): number => Math.max(0, Math.ceil(Math.min(...points.map((p) => p[each]!))));
  const to = (each: number): number => Math.min(viewer.extents[each]! - 1, Math.floor(Math.max(...points.map((p) => p[each]!))));
  const isWithin = kind === "region" ? inEllipse : inOutline;
  const found: number[] = [];
  const place: Vector = [0, 0, 0];
  place[axis] = points[0]![axis]!;
  for (place[up] = from(up); place[up]! <= to(up); place[up]! += 1)
    for (place[across] = from(across); place[across]! <= to(across); place[across]! += 1)
      if (isWithin(place, points, across, up)) found.push(voxels.value(viewer.fileVoxel(place), channel));
  return found;
}

function inEllipse(place: Vector, [a, b]: Vector[], across: number, up: number): boolean {
  const off = (each: number): number => ((2 * place[each]! - a![each]! - b![each]!) / (a![each]! - b![each]!)) ** 2;
  return off(across) + off(up) <= 1;
}

/** Whether a ray to the side crosses the outline an odd number of times. */
function inOutline(place: Vector, points: Vector[], across: number, up: number): boolean {
  const crossed = points.filter((p, n) => {
    const q = next(points, n);
    if (p[up]! > place[up]! === q[up]! > place[up]!) return false;
    return place[across]! < p[across]! + ((place[up]! - p[up]!) / (q[up]! - p[up]!)) * (q[across]! - p[across]!);
  });
  return crossed.length % 2 === 1;
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
  const points = measure.points.map((place) => pixelOf(tile, place));
  const [a, b] = points as [[number, number], [number, number]];
  const path = new Path2D();
  if (measure.kind === "region") {
    path.ellipse((a[0] + b[0]) / 2, (a[1] + b[1]) / 2, Math.abs(a[0] - b[0]) / 2, Math.abs(a[1] - b[1]) / 2, 0, 0, 2 * Math.PI);
  } else {
    for (const [n, point] of points.entries()) n ? path.lineTo(...point) : path.moveTo(...point);
    path.closePath();
  }
  for (const end of measure.kind === "freehand" ? [] : points) {
    path.moveTo(end[0] + 3 * devicePixelRatio, end[1]);
    path.arc(...end, 3 * devicePixelRatio, 0, 2 * Math.PI);
  }
  for (const [style, width] of [[HALO, 4], [COLOUR, measure === selected ? 2.5 : 1.5]] as const) {
    context.strokeStyle = style;
    context.lineWidth = width * devicePixelRatio;
    context.stroke(path);
  }
  write(measure.told, tile, ...([0, 1].map((each) => Math.max(...points.map((point) => point[each]!))) as [number, number]));
}

/** Beside a place, within the plane: a line for the area, and one for each channel. */
function write(text: string, { rect: [left, top, width, height] }: Tile, x: number, y: number): void {
  const size = 13 * devicePixelRatio;
  const font = (context.font = fontOf(13));
  const lines = text.split(" · ");
  const room = Math.max(...lines.map((line) => context.measureText(line).width)) + 8 * devicePixelRatio;
  const from = Math.max(left + size / 2, Math.min(x + size / 2, left + width - room));
  const first = Math.max(top + size, Math.min(y + size, top + height - size / 2 - (lines.length - 1) * 1.25 * size));
  for (const [n, line] of lines.entries()) writeText(context, line, from, first + n * 1.25 * size, font, COLOUR);
}

function list(): void {
  byId("measures-section").hidden = !measures.length;
  byId("measured").replaceChildren(...measures.map(item));
}

function item(measure: Measure): HTMLLIElement {
  const { axis, points, told } = measure;
  const open = link(told, measure === selected, () => {
    const middle = points[0]!.map((_, n) => Math.round(points.reduce((sum, p) => sum + p[n]!, 0) / points.length));
    viewer.moveTo(mm(middle as Vector));
    select(measure);
  });
  open.title = "Go there";
  const remove = trash(`Delete ${told}`, () => (select(measure), removeSelected()));
  remove.title = "Delete (Delete)";
  return make("li", {}, open, remove, quiet(`${PLANES[axis]} ${points[0]![axis]! + 1}`));
}
