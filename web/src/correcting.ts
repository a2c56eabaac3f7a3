/** Labels that a person changes: each change once undone and redone, counted, and kept on the server as a version. */

import * as api from "./api";
import { ApiError } from "./api";
import { compareWith } from "./comparing";
import { byId } from "./dom";
import { save, stem } from "./files";
import { announce, explain, show } from "./messages";
import { type Nifti, type Vector, zipped } from "./nifti";
import { chosenBundle } from "./segmenting";
import { changed, on, state } from "./state";
import type { Label, LabelClick } from "./types";
import type { Viewer } from "./viewer";

/** Where a person drew: a structure, and a slice across an axis (right, anterior, superior). */
export interface Drawn {
  label: number;
  axis: number;
  slice: number;
}

/** A click whose effect is in the labels. */
export interface Said extends LabelClick {
  /** The voxel along right, anterior, superior. */
  place: Vector;
}

interface Step {
  indices: Uint32Array;
  /** What the voxels hold when the step is undone, or redone: the two are swapped. */
  values: Uint16Array;
  drawn: Drawn | null;
  click: Said | null;
}

/** Of steps that can be undone; the oldest go first. Six bytes are a voxel. */
const MOST_UNDONE_VOXELS = 4e7;
const AUTHOR = "transunet-author";

let viewer: Viewer;
let steps: Step[] = [];
/** How many of them are in the labels, and how many were when these were saved; -1: they cannot be had again. */
let done = 0;
let saved = 0;
let counts: number[] | null = null;
let drawing = 0;
/** What has not ended: a stroke that is being drawn. */
const open = new Set<Edit>();
/** Voxels that were drawn on, changed or not, since somebody asked to be told. */
let drawnOn: Set<number> | null = null;
/** Structures that a person added, until they are saved. */
let added: Label[] = [];

export const unsaved = (): boolean => done !== saved || added.length > 0;
export const undoable = (): boolean => done > 0;
export const redoable = (): boolean => done < steps.length;

export function connectCorrecting(shown: Viewer): void {
  viewer = shown;
  on("labels", () => {
    [steps, done, saved, counts, added, drawnOn] = [[], 0, 0, null, [], null];
    open.clear();
    changed("edit");
  });
  window.addEventListener("beforeunload", (event) => unsaved() && event.preventDefault());
  for (const leave of document.querySelectorAll("dialog .leave"))
    leave.addEventListener("click", () => leave.closest("dialog")!.close(""));
  byId<HTMLFormElement>("author-form").addEventListener("submit", () =>
    localStorage.setItem(AUTHOR, byId<HTMLInputElement>("author").value.trim()),
  );
}

/** One change of the labels that are shown, voxel by voxel; until it ends, others may change other voxels. */
export class Edit {
  private readonly indices: number[] = [];
  private readonly values: number[] = [];
  private readonly data = state.labels!.data;
  private readonly counts = voxelCounts();

  constructor() {
    open.add(this);
  }

  /** @param index of a voxel in the array of the image's file. */
  set(index: number, value: number): void {
    const before = this.data[index]!;
    drawnOn?.add(index);
    if (before === value) return;
    this.indices.push(index);
    this.values.push(before);
    this.put(index, value);
  }

  private put(index: number, value: number): void {
    const before = this.data[index]!;
    this.counts[before]! -= 1;
    this.counts[value] = (this.counts[value] ?? 0) + 1;
    this.data[index] = value;
  }

  /** Make it one step that can be undone; return how many voxels it changed. */
  end(drawn: Drawn | null = null, click: Said | null = null): number {
    const count = this.indices.length;
    if (!open.delete(this) || !count) return 0; // other labels are shown by now, or nothing changed
    if (saved > done) saved = -1;
    steps.length = done;
    steps.push({ indices: Uint32Array.from(this.indices), values: Uint16Array.from(this.values), drawn, click });
    done += 1;
    let kept = steps.reduce((sum, { indices }) => sum + indices.length, 0);
    while (kept > MOST_UNDONE_VOXELS && steps.length > 1) {
      kept -= steps.shift()!.indices.length;
      [done, saved] = [done - 1, Math.max(-1, saved - 1)];
    }
    redraw();
    return count;
  }

  /** Take it back. */
  cancel(): void {
    if (!open.delete(this)) return;
    for (let n = this.indices.length - 1; n >= 0; n--) this.put(this.indices[n]!, this.values[n]!);
    redraw();
  }
}

/**
 * Change labels as one step that can be undone; draws them and counts them anew.
 *
 * @param change voxels by their index in the array of the image's file, and what each, or all, become.
 * @returns how many voxels changed.
 */
export function applyEdit({ indices, values }: { indices: ArrayLike<number>; values: ArrayLike<number> | number }, drawn: Drawn | null = null, click: Said | null = null): number {
  const edit = new Edit();
  for (let n = 0; n < indices.length; n++) edit.set(indices[n]!, typeof values === "number" ? values : values[n]!);
  return edit.end(drawn, click);
}

/** Collect from now on the voxels that are drawn on. */
export const watchDrawing = (): Set<number> => (drawnOn = new Set());

/** Undo the last step, not below a stroke that is being drawn; return whether there is one. */
export function undo(): boolean {
  if (!undoable()) return false;
  if (open.size) return true;
  done -= 1;
  swap(steps[done]!, true);
  announce("Undone.");
  return true;
}

export function redo(): boolean {
  if (!redoable()) return false;
  if (open.size) return true;
  swap(steps[done]!, false);
  done += 1;
  redraw();
  announce("Done again.");
  return true;
}

/** A voxel that a step changed twice is swapped in the order of its changes, or the other way. */
function swap({ indices, values }: Step, backwards: boolean): void {
  const [data, counted] = [state.labels!.data, voxelCounts()];
  for (let n = 0; n < indices.length; n++) {
    const at = backwards ? indices.length - 1 - n : n;
    const [before, value] = [data[indices[at]!]!, values[at]!];
    data[indices[at]!] = value;
    values[at] = before;
    counted[before]! -= 1;
    counted[value] = (counted[value] ?? 0) + 1;
  }
  redraw();
}

/** The slices across an axis that a structure was drawn in, by steps that are not undone. */
export function drawnSlices(label: number, axis: number): number[] {
  const found = steps.slice(0, done).flatMap(({ drawn }) => (drawn?.label === label && drawn.axis === axis ? [drawn.slice] : []));
  return [...new Set(found)].sort((a, b) => a - b);
}

/** The clicks that the labels show, which are those of steps that are not undone. */
export const clicksDone = (): Said[] => steps.slice(0, done).flatMap(({ click }) => click ?? []);

/** How many voxels each value has in the labels that are shown. */
export function voxelCounts(): number[] {
  if (counts) return counts;
  const data = state.labels!.data;
  const found = new Float64Array(65536);
  for (let n = 0; n < data.length; n++) found[data[n]!]! += 1;
  return (counts = [...found.subarray(0, found.findLastIndex((each) => each > 0) + 1)]);
}

/** Draw what changed with the screen's next picture, however often it changes until then. */
export function redraw(): void {
  drawing ||= requestAnimationFrame(() => {
    drawing = 0;
    viewer.updateLabels();
    changed("edit");
  });
}

/** A structure that the labels do not have yet. */
export function addStructure(label: Label): void {
  const labels = state.labels!;
  added.push(label);
  labels.structures = [...labels.structures, label];
  viewer.showLabels(labels, labels.structures);
  changed("structures");
  changed("edit");
}

/** Keep the labels that are shown as a version; return whether that went well. */
export async function saveCorrection(force = false): Promise<boolean> {
  const { image, labels, shown } = state;
  if (!image || !labels) return false;
  const author = await authorName();
  if (!author) return false;
  const [at, names] = [done, Object.fromEntries(added.map(({ index, name }) => [index, name]))];
  try {
    const file = await zipped(labels);
    const record = await api.sendCorrection(image.info.id, file, {
      ...(shown ? { parent: shown.id } : { bundle: chosenBundle() }),
      author,
      force: String(force),
      names: JSON.stringify(names),
    });
    if (state.labels !== labels) return true;
    [saved, added] = [at, []];
    labels.structures = record.structures;
    state.shown = record;
    announce(`Saved as ${record.name}.`);
    changed("edit");
    changed("versions");
    return true;
  } catch (error) {
    if (error instanceof ApiError && error.code === "superseded") tellOther(error);
    else if (error instanceof ApiError && error.status === 404) offerFile(error, image.info.name, labels);
    else explain(error, "Saving the correction", () => void saveCorrection(force));
    return false;
  }
}

/** The server has the image no more: what was drawn can leave the page as a file. */
function offerFile(error: ApiError, name: string, labels: Nifti): void {
  const use = (): void => void zipped(labels).then((file) => save(file, `${stem(name)}_labels.nii.gz`));
  show("error", error.message, "What was drawn is on this page alone.", [{ text: "Download what was drawn", use }]);
}

/** Somebody else corrected the same labels meanwhile: nothing is lost, whatever is chosen. */
function tellOther(error: ApiError): void {
  const when = new Date(error.correction!.created).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  show("error", `${error.correction!.author ?? "Somebody"} corrected this already, on ${when}.`, "Yours is not saved yet.", [
    { text: "Save as a version beside", use: () => void saveCorrection(true) },
    { text: "Look at theirs", use: () => void lookAt(error.correction!.id) },
  ]);
  changed("versions");
}

/** Draw another version over what is shown, as a reference is. */
async function lookAt(id: string): Promise<void> {
  try {
    await compareWith(await api.labelMap(id));
  } catch (error) {
    explain(error, "Fetching their version", () => void lookAt(id));
  }
}

/** Who corrects: asked once, and kept in this browser. */
async function authorName(): Promise<string> {
  const known = localStorage.getItem(AUTHOR);
  if (known) return known;
  return (await answer("author-dialog")) === "ok" ? localStorage.getItem(AUTHOR) ?? "" : "";
}

/** What is chosen in a dialog; empty where it is left. */
function answer(id: string): Promise<string> {
  const dialog = byId<HTMLDialogElement>(id);
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true }));
}

/** Ask before labels are left whose changes are not saved, once a stroke is at its end; return whether they may be. */
export async function mayLeave(): Promise<boolean> {
  while (open.size) await new Promise(requestAnimationFrame);
  if (!unsaved()) return true;
  const chosen = await answer("unsaved-dialog");
  if (chosen === "discard") [saved, added] = [done, []];
  return chosen === "discard" || (chosen === "save" && (await saveCorrection()));
}
