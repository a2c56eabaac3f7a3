/** Choosing a bundle, starting a segmentation, following and cancelling it. */

import * as api from "./api";
import { ApiError } from "./api";
import { byId, make, options, sentence } from "./dom";
import { ended, follow } from "./events";
import { announce, clearMessages, explain, offline, online, show } from "./messages";
import { changed, on, state } from "./state";
import { TimeLeft } from "./time_left";
import type { Job, Settings, Suitability } from "./types";

const select = byId<HTMLSelectElement>("bundle");
const button = byId<HTMLButtonElement>("segment");
const stop = byId<HTMLButtonElement>("cancel");
const box = byId("progress");
const bar = byId<HTMLProgressElement>("progress-bar");
const text = byId("progress-text");
let following: AbortController | null = null;
let quarter = -1;
let timeLeft = new TimeLeft();

/** @param finished shows the labels of a job that is done. */
export function connectSegmenting(finished: (job: Job) => void): void {
  button.addEventListener("click", () => void segment(finished));
  stop.addEventListener("click", () => void cancel());
  select.addEventListener("change", enable);
  on("bundles", showBundles);
  on("image", () => (chooseFitting(), enable()));
  on("job", showJob);
  on("labels", () => button.classList.toggle("primary", !state.labels)); // what comes next is elsewhere then
}

export const chosenBundle = (): string => select.value;

export function chooseBundle(id: string | undefined): void {
  if (!id || id === select.value || !state.bundles.some((each) => each.id === id)) return;
  select.value = id;
  select.dispatchEvent(new Event("change"));
}

/** If another bundle suits the image that was opened better than the chosen one, choose the best. */
function chooseFitting(): void {
  const suiting = state.bundles.map(({ id }) => [unfitness(suitability(id)), id] as const);
  const [best] = [...suiting].sort(([a], [b]) => a - b);
  const chosen = suiting.find(([, id]) => id === select.value);
  if (best && chosen && best[0] < chosen[0]) chooseBundle(best[1]);
}

/** How the image that is open suits a bundle; nothing for one that takes other channels. */
const suitability = (bundle: string): Suitability | undefined =>
  state.image?.info.suitability.find((each) => each.bundle === bundle);

/** What speaks most against a bundle: other channels, another kind of image, other values, other voxels, nothing. */
function unfitness(suits: Suitability | undefined): number {
  if (!suits) return 4;
  if (suits.refusal) return 3;
  if (suits.doubtful_values) return 2;
  return suits.warnings.length ? 1 : 0;
}

function showSuitability(): void {
  const box = byId("suitability");
  const { refusal = null, warnings = [] } = suitability(select.value) ?? {};
  box.hidden = !refusal && !warnings.length;
  box.classList.toggle("refused", !!refusal);
  const title = refusal ? "This model is not for such an image" : "This image is unlike those of training";
  const texts = refusal ? [sentence(refusal), ...warnings] : warnings;
  box.replaceChildren(make("strong", {}, title), ...texts.map((text) => make("p", {}, text)));
}

function showBundles(): void {
  const kept = select.value;
  const twice = (name: string): boolean => state.bundles.filter((each) => each.name === name).length > 1;
  options(select, state.bundles.map(({ id, name }) => [id, twice(name) ? `${name}: ${id}` : name]));
  if (state.bundles.some(({ id }) => id === kept)) select.value = kept;
  enable();
}

const running = (): boolean => !!state.job && !ended(state.job);

function enable(): void {
  button.disabled = !state.image || !select.value || running();
  stop.hidden = !running();
  byId("bundle-facts").textContent = facts();
  showSuitability();
}

function facts(): string {
  const bundle = state.bundles.find(({ id }) => id === select.value);
  if (!bundle) return "";
  const structures = bundle.labels.filter(({ index }) => index > 0).map(({ name }) => name);
  const channels = bundle.channels.join(" + ");
  const wrong = state.image && state.image.info.channels !== bundle.channels.length;
  const needs = wrong ? ` Needs ${bundle.channels.length} channel(s); this image has ${state.image!.info.channels}.` : "";
  return `${channels}: ${structures.join(", ")}.${needs}`;
}

function settings(force: boolean): Settings {
  const on = (id: string): boolean => byId<HTMLInputElement>(id).checked;
  const procedure = byId<HTMLSelectElement>("procedure").value as Settings["procedure"];
  const largest_component = on("largest") ? ["all"] : [];
  return { procedure, mirror: on("mirror"), largest_component, window: on("windowed"), force };
}

/** @param force segment an image of another kind than the bundle is for. */
export async function segment(finished: (job: Job) => void, force = false): Promise<void> {
  if (button.disabled || !state.image) return;
  button.disabled = true;
  clearMessages();
  try {
    const job = await api.submit(state.image.info.id, select.value, settings(force));
    announce("Segmentation started.");
    await watch(job, finished);
  } catch (error) {
    if (error instanceof ApiError && error.code === "wrong_modality")
      show("error", error.message, "Choose a model for such images.", [
        { text: "Segment it all the same", use: () => void segment(finished, true) },
      ]);
    else explain(error, "Segmenting", () => void segment(finished, force));
  } finally {
    enable();
  }
}

/** Follow `job` to its end, unless another is opened meanwhile. */
export async function watch(job: Job, finished: (job: Job) => void): Promise<void> {
  following?.abort();
  const mine = (following = new AbortController());
  quarter = -1;
  timeLeft = new TimeLeft();
  const use = (next: Job): void => {
    if (mine.signal.aborted) return;
    state.job = next;
    changed("job");
  };
  use(job);
  try {
    await follow(job.id, use, mine.signal, (lost) => (lost ? offline() : online()));
  } catch (error) {
    if (!mine.signal.aborted) {
      state.job = null;
      changed("job");
      explain(error, "Following the segmentation");
    }
    return;
  }
  if (mine.signal.aborted || !state.job) return;
  if (state.job.status === "done") finished(state.job);
  else end(state.job);
}

export function unwatch(): void {
  following?.abort();
  following = null;
}

function end(job: Job): void {
  if (job.status === "cancelled") announce("Segmentation cancelled.");
  else show("error", job.error?.message ?? "The segmentation failed.", job.error?.remedy);
}

async function cancel(): Promise<void> {
  if (!state.job) return;
  stop.disabled = true;
  try {
    await api.cancel(state.job.id);
  } catch (error) {
    explain(error, "Cancelling");
  } finally {
    stop.disabled = false;
  }
}

function showJob(): void {
  enable();
  const job = state.job;
  box.hidden = !running();
  if (!job || box.hidden) return;
  const waiting = job.status === "queued";
  if (waiting || !job.slices_total) bar.removeAttribute("value");
  else {
    bar.max = job.slices_total;
    bar.value = job.slices_done;
  }
  text.textContent = waiting ? queued(job) : sliced(job);
  announceQuarters(job);
}

function queued(job: Job): string {
  return job.position && job.position > 1 ? `Waiting: ${job.position - 1} before it` : "Waiting";
}

function sliced(job: Job): string {
  const ofVolumes = state.bundles.find(({ id }) => id === job.bundle)?.image_size.length === 3;
  const sample = ofVolumes ? "Patch" : "Slice";
  if (!job.slices_total) return "Starting";
  const left = timeLeft.tell(job.slices_done, job.slices_total);
  return [`${sample} ${job.slices_done} of ${job.slices_total}`, left].filter(Boolean).join(" · ");
}

/** Every slice would be too much to hear. */
function announceQuarters(job: Job): void {
  if (!job.slices_total) return;
  const reached = Math.floor((4 * job.slices_done) / job.slices_total);
  if (reached === quarter) return;
  quarter = reached;
  announce(`${reached * 25} percent`);
}
