/** Images that the server still keeps, newest first, and how much was made of each: open again, delete. */

import * as api from "./api";
import { mayLeave } from "./correcting";
import { byId, link, make, quiet, refill, trash } from "./dom";
import { ended } from "./events";
import { forgetMeasures } from "./measuring";
import { announce, explain } from "./messages";
import { studyOf, titleOf } from "./opening";
import { on, state } from "./state";
import type { ImageInfo, Job, LabelMap } from "./types";

const list = byId<HTMLUListElement>("recent");

export interface Uses {
  /** Show an image alone. */
  openImage: (id: string) => void;
  /** Show an image with a correction of it. */
  openMap: (image: string, map: LabelMap) => void;
  /** Show a job's image and result. */
  openJob: (job: Job) => void;
}

export let refresh: () => void = () => undefined;

export function connectRecent(uses: Uses): void {
  refresh = () => void load(uses);
  let last = "";
  on("job", () => {
    const key = state.job ? `${state.job.id} ${state.job.status}` : "";
    if (key !== last) refresh();
    last = key;
  });
  on("versions", refresh);
  on("labels", refresh); // also where there are none, of an image that was opened
}

async function load(uses: Uses): Promise<void> {
  try {
    const [images, jobs] = await Promise.all([api.images(), api.jobs()]);
    forgetMeasures(images.map(({ id }) => id));
    const drawn = new Map<string, LabelMap[]>();
    await Promise.all(images.filter(({ kept }) => kept).map(async ({ id }) => drawn.set(id, await correctionsOf(id))));
    const cases = images.map((image) => ({ image, jobs: jobs.filter((job) => job.image === image.id).reverse() }));
    const latest = ({ image, jobs }: (typeof cases)[number]): string => jobs[0]?.created ?? image.created;
    cases.sort((a, b) => (latest(a) < latest(b) ? 1 : -1));
    refill(list, cases.map(({ image, jobs }) => item(image, jobs, drawn.get(image.id) ?? [], uses)));
    byId("recent-empty").hidden = images.length > 0;
  } catch (error) {
    explain(error, "Listing what is kept", refresh);
  }
}

/** What was drawn on an image, the newest first. */
async function correctionsOf(image: string): Promise<LabelMap[]> {
  const drawn = (await api.labelMaps(image)).filter(({ kind }) => kind === "correction");
  return drawn.sort((a, b) => Date.parse(b.created) - Date.parse(a.created));
}

/** An image, which opens with its newest correction or else result; all of them are listed once it is open. */
function item(image: ImageInfo, jobs: Job[], drawn: LabelMap[], uses: Uses): HTMLLIElement {
  const title = titleOf(image);
  const result = jobs.find((job) => job.status === "done" || !ended(job));
  const open = link(title, image.id === state.image?.info.id, () => {
    if (drawn[0]) uses.openMap(image.id, drawn[0]);
    else if (result) uses.openJob(result);
    else uses.openImage(image.id);
  });
  const kept = image.kept ? "kept until deleted" : `kept for ${left(image.expires)}`;
  const about = [moment(image.created), studyOf(image), ...made(jobs, drawn), kept].filter(Boolean).join(" · ");
  return make("li", {}, open, trash(`Delete ${title} and its results`, () => void removing(() => removeImage(image))), quiet(about));
}

/** What was made of an image, in words. */
function made(jobs: Job[], drawn: LabelMap[]): string[] {
  const done = jobs.filter(({ status }) => status === "done").length;
  const last = jobs[0] && jobs[0].status !== "done" ? { queued: "waiting", running: "being segmented", failed: "failed", cancelled: "cancelled" }[jobs[0].status] : "";
  return [last, counted(done, "result"), counted(drawn.length, "correction")].filter(Boolean);
}

const counted = (count: number, what: string): string => (count ? `${count} ${what}${count > 1 ? "s" : ""}` : "");

async function removing(remove: () => Promise<unknown>): Promise<void> {
  try {
    await remove();
  } catch (error) {
    explain(error, "Deleting");
  }
  refresh();
}

/** @param removed is told when it is deleted. */
export function deleteJob(job: Job, removed: (job: Job) => void): Promise<void> {
  return removing(async () => {
    if (state.shown?.id === job.id && !(await mayLeave())) return;
    if (!ended(job)) await api.cancel(job.id).catch(() => undefined);
    await api.deleteJob(job.id);
    announce("Deleted.");
    removed(job);
  });
}

async function removeImage({ id, kept }: ImageInfo): Promise<void> {
  if (kept && !confirm("Delete the image with what was corrected by hand?")) return;
  await api.deleteImage(id);
  if (state.image?.info.id === id) location.reload(); // nothing of it stays on the screen
}

/** The time, and the day unless it is today. */
export function moment(iso: string): string {
  const at = new Date(iso);
  const today = at.toDateString() === new Date().toDateString();
  const day = today ? {} : ({ day: "numeric", month: "short" } as const);
  return at.toLocaleString([], { ...day, hour: "2-digit", minute: "2-digit" });
}

/** How long something is kept yet: in hours, the last in minutes. */
function left(expires: string): string {
  const hours = (Date.parse(expires) - Date.now()) / 3_600_000;
  return hours >= 1 ? `${Math.round(hours)} h more` : `${Math.max(1, Math.round(60 * hours))} min more`;
}
