/** What a model may learn from: label maps added to a data set, and a worklist that leads to the next image. */

import * as api from "./api";
import { saveCorrection, unsaved } from "./correcting";
import { byId, link, make, quiet, refill, sentence } from "./dom";
import { announce, explain } from "./messages";
import { on, state } from "./state";
import type { DatasetState, Offers, WorklistState } from "./types";

const add = byId<HTMLButtonElement>("dataset-add");
const told = byId("dataset-text");
const list = byId<HTMLOListElement>("worklist");
const previous = byId<HTMLButtonElement>("worklist-previous");
const next = byId<HTMLButtonElement>("worklist-next");
let dataset: DatasetState | null = null;
let worklist: WorklistState | null = null;
/** The place of the image that is open, from 1; 0 before the first. */
let place = 0;

/** @param open opens the image at a place of the worklist and segments it; whether it is open. */
export async function connectLearning(offered: Offers, open: (place: number) => Promise<boolean>): Promise<void> {
  if (offered.dataset) {
    byId("dataset-section").hidden = false;
    add.addEventListener("click", () => void accept());
    on("image", () => void look());
    for (const topic of ["labels", "versions"] as const) on(topic, showDataset);
    showDataset();
  }
  if (!offered.worklist) return;
  byId("worklist-section").hidden = false;
  byId("worklist-section").after(byId("dataset-section")); // where the hand is already
  goTo = (to) => void (to && visit(to, open));
  goToNext = () => goTo(following());
  goToPrevious = () => goTo(place - 1);
  next.addEventListener("click", goToNext);
  previous.addEventListener("click", goToPrevious);
  on("image", placeOfImage);
  await loadWorklist();
}

let goTo: (place: number) => void = () => undefined;
export let goToNext: () => void = () => undefined;
export let goToPrevious: () => void = () => undefined;

/** Ask whether the data set has the image that was opened. */
async function look(): Promise<void> {
  const image = state.image;
  dataset = null;
  showDataset();
  if (!image) return;
  try {
    const found = await api.dataset(image.info.id);
    if (state.image !== image) return;
    dataset = found;
    if (found.case && worklist) await loadWorklist();
  } catch (error) {
    explain(error, "Asking for the data set", () => void look());
  }
  showDataset();
}

function showDataset(): void {
  add.disabled = !dataset || !!dataset.case || !state.shown;
  if (!state.image) told.textContent = "Open an image, segment and correct it; what is right can be kept to learn from.";
  else if (!dataset) told.textContent = "Looking whether the image is in it…";
  else told.textContent = described(dataset);
}

function described({ name, cases, case: known }: DatasetState): string {
  const count = `${name} has ${cases} ${cases === 1 ? "case" : "cases"}.`;
  return known ? `This image is in it, as ${known}. ${count}` : count;
}

async function accept(): Promise<void> {
  if (unsaved() && !(await saveCorrection())) return;
  const { image, shown } = state;
  if (!image || !shown) return;
  add.disabled = true;
  told.textContent = "Adding…";
  try {
    const added = await api.addToDataset(image.info.id, shown.id);
    if (state.image === image) dataset = added;
    announce(described(added));
    if (worklist) await loadWorklist();
  } catch (error) {
    explain(error, "Adding to the data set", () => void accept());
  }
  showDataset();
}

async function loadWorklist(): Promise<void> {
  try {
    worklist = await api.worklist();
    showWorklist();
  } catch (error) {
    explain(error, "Reading the worklist", () => void loadWorklist());
  }
}

/** The next image that is not done; where all behind are, the one behind; 0 after the last. */
function following(): number {
  const behind = (worklist?.cases ?? []).filter((each) => each.place > place);
  return (behind.find(({ added }) => !added) ?? behind[0])?.place ?? 0;
}

/** An image of the worklist may be opened from elsewhere; another one is none of it. */
function placeOfImage(): void {
  place = worklist?.cases.find(({ image }) => image === state.image?.info.id)?.place ?? place;
  showWorklist();
}

async function visit(to: number, open: (place: number) => Promise<boolean>): Promise<void> {
  const from = place;
  place = to;
  showWorklist();
  if (!(await open(to)) && place === to) place = from; // unless another one was asked for meanwhile
  showWorklist();
  await loadWorklist();
}

function showWorklist(): void {
  if (!worklist) return;
  const { cases, order } = worklist;
  const done = cases.filter(({ added }) => added).length;
  const current = cases[place - 1];
  Object.assign(byId<HTMLProgressElement>("worklist-progress"), { max: cases.length, value: done });
  byId("worklist-text").textContent = place
    ? `Image ${place} of ${cases.length} · ${done} done`
    : `${done} of ${cases.length} done`;
  next.textContent = place ? "Next" : "Begin";
  next.disabled = !following();
  previous.disabled = place < 2;
  byId("worklist-why").textContent = current
    ? [`${order} ${current.dice.toFixed(2)} (${current.structure})`, ...current.reasons].map(sentence).join(" ")
    : "Images to be labelled, the most doubtful first.";
  refill(
    list,
    cases.map(({ place: at, case: name, dice, added }) => {
      const open = link(name, at === place, () => goTo(at));
      const mark = added ? `✓ in the data set as ${added}` : `${order} ${dice.toFixed(2)}`;
      return make("li", {}, open, quiet(mark));
    }),
  );
}
