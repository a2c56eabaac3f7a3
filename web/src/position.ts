/** Where the crosshair is, what is there, and the slices to scroll through. */

import { byId, fixed } from "./dom";
import type { Vector } from "./nifti";
import { changed, on, state } from "./state";
import { AXIS_OF, type Viewer } from "./viewer";

const plane = byId<HTMLSelectElement>("plane");
const slice = byId<HTMLInputElement>("slice");
const PLANES = ["sagittal", "coronal", "axial"];

export function connectPosition(viewer: Viewer): void {
  plane.addEventListener("change", () => showSlice(viewer));
  slice.addEventListener("input", () => scroll(viewer, Number(slice.value) - 1 - viewer.place[axis()]!));
  for (const topic of ["labels", "edit"] as const) on(topic, showReadout);
  on("image", () => {
    plane.value = "2";
    showSlice(viewer);
    showReadout();
  });
}

/** The axis (0 right, 1 anterior, 2 superior) whose slices are scrolled through. */
export const axis = (): number => Number(plane.value);

export function setPlane(viewer: Viewer, value: number): void {
  plane.value = String(value);
  showSlice(viewer);
}

/** Go `slices` further along the chosen plane's axis. */
export function scroll(viewer: Viewer, slices: number): void {
  const shift: Vector = [0, 0, 0];
  shift[axis()] = slices;
  viewer.move(...shift);
}

/** NiiVue moved the crosshair to `mm` of the display; `clicked` is the plane it was clicked in. */
export function movedTo(viewer: Viewer, mm: Vector, clicked: number): void {
  const image = state.image;
  if (!image) return;
  const voxel = image.voxels.voxel(mm);
  if (!image.voxels.inside(voxel)) return;
  state.voxel = voxel;
  state.mm = mm;
  const along = AXIS_OF[clicked];
  if (along !== undefined) plane.value = String(along);
  showSlice(viewer);
  showReadout();
  changed("place");
}

function showSlice(viewer: Viewer): void {
  const [count, at] = [viewer.extents[axis()]!, viewer.place[axis()]! + 1];
  slice.max = String(count);
  slice.value = String(at);
  slice.setAttribute("aria-label", `Slice, ${PLANES[axis()]}`);
  slice.setAttribute("aria-valuetext", `${at} of ${count}`);
  byId("slice-text").textContent = `${at} / ${count}`;
}

function showReadout(): void {
  const { image, voxel } = state;
  const put = (id: string, text: string): void => void (byId(id).textContent = text);
  if (!image) return ["at-mm", "at-voxel", "at-value", "at-structure"].forEach((id) => put(id, "–"));
  const picture = image.info.kind === "picture";
  put("at-voxel-name", picture ? "row, column" : "voxel");
  put("at-voxel", voxel.slice(0, picture ? 2 : 3).join(", "));
  put("at-mm", state.mm.map((value) => fixed(value, 1)).join(", "));
  put("at-value", values(voxel).join(", "));
  put("at-structure", structure(voxel));
}

function values(voxel: Vector): string[] {
  const { info, voxels } = state.image!;
  const channels = Array.from({ length: Math.min(voxels.channels, 4) }, (_, n) => voxels.value(voxel, n));
  return channels.map((value, n) => withUnit(Number(value.toPrecision(5)), info.units[n]));
}

const withUnit = (value: number, unit: string | null | undefined): string => (unit ? `${value} ${unit}` : String(value));

function structure(voxel: Vector): string {
  if (!state.labels) return "–";
  const index = state.labels.value(voxel);
  if (index === 0) return "none";
  return state.labels.structures.find((label) => label.index === index)?.name ?? `label ${index}`;
}
