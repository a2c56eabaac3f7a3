/** Distances and regions that are drawn on a plane and stay in its slice: in mm, and what the voxels within hold. */

import { byId, fixed, link, make, quiet, refill, trash } from "./dom";
import { announce, show } from "./messages";
import type { Vector } from "./nifti";
import { areaOf, type Corner, cornersWithin, distanceTo, inOutline } from "./outlines";
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
  /** The ends of a line; opposite corners of the box around an ellipse; the corners of an outline. */
  points: Vector[];
  told: string;
}

/** A measure that is changed, or drawn, by what becomes of it with each place of the pointer. */
interface Taken {
  measure: Measure;
  follow: (place: Vector) => unknown;
}

interface Dragged extends Taken {
  last: Corner;
  moved: boolean;
  pointer: number;
  /** All that was measured until then. */
  before: Measure[];
}

const COLOUR = "#63e6ff";
const HALO = "#000000";
/** In CSS pixels: how near a pointer takes an end or a corner, and half as near an edge; how far one is dragged at least. */
const NEAR_PX = 9;
const NEAR_FINGER_PX = 18;
const STILL_PX = 3;
/** How far from what is drawn by hand the outline of the corners that are kept of it may lie. */
const SAME_PX = 0.5;
const FEWEST_CORNERS = 3;
const DOUBLE_TAP_MS = 500;
const MOST_UNDONE = 100;
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
let dragged: Dragged | null = null;
/** All that was measured before each change, and after each that was undone. */
let past: Measure[][] = [];
let undone: Measure[][] = [];
/** When a finger touched last without moving: NiiVue lets no double click come of it. */
let tapped = -Infinity;
/** What the keyboard set of a measure so far. */
let begun: Vector[] = [];

/** Whether one of its tools is in hand. */
export const measuring = (): boolean => KINDS.some((kind) => kind === tool());

export function connectMeasuring(shown: Viewer): void {
  viewer = shown;
  viewer.drawn.push(draw);
  addTool("distance", "Distance", "Drag a line to measure it (M)");
  addTool("region", "Region", "Drag an ellipse: its area, and the mean and deviation of what is within (M, M)");
  addTool("freehand", "Freehand", "Draw around a region: its area, and the mean and deviation of what is within (M, M, M)");
  on("tool", () => {
    begun = [];
    if (state.image) select(selected);
  });
  on("image", () => {
    [past, undone] = [[], []];
    set(keptMeasures()[state.image!.info.id] ?? [], null);
  });
  window.addEventListener("storage", ({ key }) => key === KEPT && takeOver());
  byId("frame").addEventListener("change", () => set(measures, selected));
  byId("measure-undo").addEventListener("click", () => goBack(past, undone, "Undone."));
  byId("measure-redo").addEventListener("click", () => goBack(undone, past, "Done again."));
  const stage = byId("stage");
  // Before NiiVue, which listens on the canvas.
  stage.addEventListener("pointerdown", press, { capture: true });
  for (const name of ["mousedown", "touchstart", "dblclick"])
    stage.addEventListener(name, (event) => keepFromViewer(event as MouseEvent | TouchEvent), { capture: true });
  stage.addEventListener("dblclick", (event) => removeCorner(event as MouseEvent), { capture: true });
  image.addEventListener("pointermove", move);
  image.addEventListener("pointerup", release);
  image.addEventListener("pointercancel", cancel);
}

/** What a tool does, the viewer is not told; of two fingers, which zoom, it is. */
function keepFromViewer(event: MouseEvent | TouchEvent): void {
  const several = "touches" in event && event.touches.length > 1;
  if (measuring() && event.target === image && !several && !(event as MouseEvent).button) event.stopPropagation();
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
  if (kind === "freehand" ? again && begun.length >= FEWEST_CORNERS : begun.length > 1) {
    remember(structuredClone(measures));
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
  remember(structuredClone(measures));
  measures = measures.filter((each) => each !== selected);
  store();
  select(null);
  announce("Measurement deleted.");
  return true;
}

/** Make it a change that can be undone. */
function remember(before: Measure[]): void {
  past = [...past, before].slice(-MOST_UNDONE);
  undone = [];
}

/** Undo what was measured; return whether a tool for it is in hand. */
export const undoMeasured = (): boolean => measuring() && (goBack(past, undone, "Undone."), true);
export const redoMeasured = (): boolean => measuring() && (goBack(undone, past, "Done again."), true);

function goBack(from: Measure[][], to: Measure[][], said: string): void {
  const found = dragged ? undefined : from.pop();
  if (!found) return;
  to.push(measures);
  replace(found);
  store();
  announce(said);
}

/** Show what was measured before or after; what is selected stays so where nothing was added or deleted. */
function replace(found: Measure[]): void {
  const at = found.length === measures.length ? measures.indexOf(selected!) : -1;
  set(found, found[at] ?? null);
}

function set(next: Measure[], chosen: Measure | null): void {
  measures = next;
  for (const each of measures) each.told = told(each);
  select(chosen);
}

function press(event: PointerEvent): void {
  if (event.target !== image || event.button || !measuring() || !state.image) return;
  if (dragged) return cancel(); // a second finger: the two zoom
  event.stopPropagation();
  event.preventDefault();
  image.focus();
  const at = canvasPixel(event, image);
  const tile = viewer.tiles().find((each) => isOn(each, at));
  if (!tile) return;
  image.setPointerCapture(event.pointerId);
  const before = structuredClone(measures);
  const near = nearOf(event);
  const taken = takeEnd(at, tile, near) ?? takeEdge(at, tile, near / 2) ?? takeWhole(at, tile) ?? begin(at, tile);
  dragged = { ...taken, last: at, moved: false, pointer: event.pointerId, before };
}

const nearOf = (event: Partial<PointerEvent>): number => (event.pointerType === "touch" ? NEAR_FINGER_PX : NEAR_PX) * devicePixelRatio;

/** The end of a line, corner around an ellipse, or corner of the selected outline that is nearest to a place on the screen. */
function endAt(at: Corner, tile: Tile, near: number): { measure: Measure; point: number } | null {
  const ends = measures
    .filter((each) => shows(tile, each) && (each.kind !== "freehand" || each === selected))
    .flatMap((measure) => measure.points.map((place, point) => ({ measure, point, off: distance(pixelOf(tile, place), at) })));
  return ends.filter(({ off }) => off <= near).sort((a, b) => a.off - b.off)[0] ?? null;
}

function takeEnd(at: Corner, tile: Tile, near: number): Taken | null {
  const end = endAt(at, tile, near);
  return end && { measure: end.measure, follow: (place) => (end.measure.points[end.point] = place) };
}

/** An edge of the selected outline gets a corner where it is taken. */
function takeEdge(at: Corner, tile: Tile, near: number): Taken | null {
  if (selected?.kind !== "freehand" || !shows(tile, selected)) return null;
  const { points } = selected;
  const point = edgeAt(at, tile, near, points) + 1;
  if (!point) return null;
  points.splice(point, 0, placeAt(tile, at));
  return { measure: selected, follow: (place) => (points[point] = place) };
}

const edgeAt = (at: Corner, tile: Tile, near: number, points: Vector[]): number =>
  points.findIndex((place, n) => distanceTo(at, [pixelOf(tile, place), pixelOf(tile, points[(n + 1) % points.length]!)]) <= near);

/** What is selected moves as a whole; within what is not, another region may be drawn. */
function takeWhole(at: Corner, tile: Tile): Taken | null {
  const measure = selected;
  let last = placeAt(tile, at);
  if (!measure || !shows(tile, measure) || !within(measure)(last)) return null;
  const follow = (place: Vector): void => {
    const shift = difference(place, last);
    measure.points = measure.points.map((each) => each.map((coordinate, n) => coordinate + shift[n]!) as Vector);
    last = place;
  };
  return { measure, follow };
}

function begin(at: Corner, tile: Tile): Taken {
  const place = placeAt(tile, at);
  const measure: Measure = { kind: tool() as Kind, axis: tile.axis, points: [place, place], told: "" };
  return { measure, follow: (next) => (measure.kind === "freehand" ? measure.points.push(next) : (measure.points[1] = next)) };
}

function move(event: PointerEvent): void {
  if (event.pointerId !== dragged?.pointer) return;
  const { measure, follow, last, moved, before } = dragged;
  const at = canvasPixel(event, image);
  const tile = viewer.tiles().find((each) => shows(each, measure));
  if (!tile) return;
  const drawn = measure.kind === "freehand" && measures.length > before.length; // not each pixel's corner is needed
  if ((!moved || drawn) && distance(at, last) < STILL_PX * devicePixelRatio) return;
  if (!measures.includes(measure)) measures.push(measure);
  Object.assign(dragged, { last: at, moved: true });
  follow(placeAt(tile, at));
  measure.told = told(measure);
  draw();
}

function release(event: PointerEvent): void {
  if (event.pointerId !== dragged?.pointer) return;
  const { measure, moved, before, last } = dragged;
  const tile = viewer.tiles().find((each) => isOn(each, last));
  if (!moved) {
    cancel();
    const again = event.pointerType === "touch" && event.timeStamp - tapped < DOUBLE_TAP_MS;
    tapped = event.timeStamp;
    if (again && removeCorner(event)) return;
    return select((tile && clickedAt(last, tile, nearOf(event))) ?? null);
  }
  dragged = null;
  const drawn = viewer.tiles().find((each) => shows(each, measure));
  if (drawn && measure.kind === "freehand" && measures.length > before.length) {
    const line = measure.points.map((place) => pixelOf(drawn, place));
    const kept = cornersWithin([...line, line[0]!], SAME_PX * devicePixelRatio).slice(0, -1);
    measure.points = kept.map((n) => measure.points[n]!);
    if (measure.points.length < FEWEST_CORNERS) return replace(before);
  }
  remember(before);
  keep(measure);
}

/** All is as before what was dragged. */
function cancel(): void {
  if (!dragged) return;
  const { before } = dragged;
  dragged = null;
  replace(before);
}

/** What a click selects: the last that was drawn there. */
function clickedAt(at: Corner, tile: Tile, near: number): Measure | undefined {
  const isAt = (each: Measure): boolean => (each.kind !== "region" && edgeAt(at, tile, near, each.points) >= 0) || within(each)(placeAt(tile, at));
  return endAt(at, tile, near)?.measure ?? measures.findLast((each) => shows(tile, each) && isAt(each));
}

/** Take a corner out of the selected outline, where enough are left; return whether that was meant. */
function removeCorner(event: MouseEvent): boolean {
  if (!measuring() || event.target !== image) return false;
  const at = canvasPixel(event, image);
  const tile = viewer.tiles().find((each) => isOn(each, at));
  const end = tile && endAt(at, tile, nearOf(event));
  if (end?.measure.kind !== "freehand" || end.measure.points.length <= FEWEST_CORNERS) return false;
  remember(structuredClone(measures));
  end.measure.points.splice(end.point, 1);
  keep(end.measure);
  return true;
}

const distance = ([x, y]: Corner, [toX, toY]: Corner): number => Math.hypot(toX - x, toY - y);

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
  try {
    localStorage.setItem(KEPT, JSON.stringify({ ...keptMeasures(), [state.image!.info.id]: measures }));
  } catch {
    show("note", "This browser has no room to keep measurements.", "They are gone when the page is loaded anew.");
  }
}

/** Another tab measured the same image, or undid it: neither tab writes over what the other one has. */
function takeOver(): void {
  const kept = state.image ? (keptMeasures()[state.image.info.id] ?? []) : [];
  if (!state.image || JSON.stringify(kept) === JSON.stringify(measures)) return;
  cancel();
  [past, undone] = [[], []];
  set(kept, null);
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
  return areaOf(points.map((place) => [place[across]!, place[up]!]));
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

/** The values of the voxels whose centres lie in a region. */
function valuesWithin(measure: Measure, channel: number): number[] {
  const { axis, points } = measure;
  const { voxels } = state.image!;
  const [across, up] = axesOf(measure);
  const from = (each: number): number => Math.max(0, Math.ceil(Math.min(...points.map((p) => p[each]!))));
  const to = (each: number): number => Math.min(viewer.extents[each]! - 1, Math.floor(Math.max(...points.map((p) => p[each]!))));
  const isWithin = within(measure);
  const found: number[] = [];
  const place: Vector = [0, 0, 0];
  place[axis] = points[0]![axis]!;
  for (place[up] = from(up); place[up]! <= to(up); place[up]! += 1)
    for (place[across] = from(across); place[across]! <= to(across); place[across]! += 1)
      if (isWithin(place)) found.push(voxels.value(viewer.fileVoxel(place), channel));
  return found;
}

/** Whether a place of its slice lies in a region. */
function within(measure: Measure): (place: Vector) => boolean {
  const { kind, points } = measure;
  const [across, up] = axesOf(measure);
  if (kind === "distance") return () => false;
  if (kind === "region") return (place) => inEllipse(place, points, across, up);
  const corners = points.map((place): Corner => [place[across]!, place[up]!]);
  return (place) => inOutline([place[across]!, place[up]!], corners);
}

function inEllipse(place: Vector, [a, b]: Vector[], across: number, up: number): boolean {
  const off = (each: number): number => ((2 * place[each]! - a![each]! - b![each]!) / (a![each]! - b![each]!)) ** 2;
  return off(across) + off(up) <= 1;
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
  for (const end of measure.kind === "freehand" && measure !== selected ? [] : points) {
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
  const lowest = top + height - 2.5 * size; // above the scale's bar and the letter of the side
  const first = Math.max(top + size, Math.min(y + size, lowest - (lines.length - 1) * 1.25 * size));
  for (const [n, line] of lines.entries()) writeText(context, line, from, first + n * 1.25 * size, font, COLOUR);
}

/** How what is selected is changed. */
const HINTS: Record<Kind, string> = {
  distance: "Drag an end to change it.",
  region: "Drag an end to change it, or inside to move all of it.",
  freehand: "Drag a corner to change it, an edge to add a corner, or inside to move all of it; a double click on a corner takes it out.",
};

function list(): void {
  const steps = past.length + undone.length;
  byId("measures-section").hidden = !measures.length && !steps;
  refill(byId("measured"), measures.map(item));
  byId("measures-hint").hidden = !selected || !measuring();
  byId("measures-hint").textContent = selected && HINTS[selected.kind];
  byId("measure-steps").hidden = !steps;
  byId<HTMLButtonElement>("measure-undo").disabled = !past.length;
  byId<HTMLButtonElement>("measure-redo").disabled = !undone.length;
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
