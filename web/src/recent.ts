/** Jobs that the server still keeps: open again, delete. */

import * as api from "./api";
import { byId, make } from "./dom";
import { ended } from "./events";
import { announce, explain } from "./messages";
import { on, state } from "./state";
import type { Job } from "./types";

const list = byId<HTMLUListElement>("recent");
const names = new Map<string, string>();

/** @param open shows a job's image and result. */
export function connectRecent(open: (job: Job) => void, removed: (job: Job) => void): void {
  refresh = () => void load(open, removed);
  let last = "";
  on("job", () => {
    const key = state.job ? `${state.job.id} ${state.job.status}` : "";
    if (key !== last) refresh();
    last = key;
  });
}

export let refresh: () => void = () => undefined;

/** Names of images are not part of a job. */
export function remember(image: string, name: string): void {
  names.set(image, name);
}

async function load(open: (job: Job) => void, removed: (job: Job) => void): Promise<void> {
  try {
    const jobs = await api.jobs();
    await Promise.all(jobs.map(({ image }) => name(image)));
    list.replaceChildren(...jobs.map((job) => item(job, open, removed)));
    byId("recent-empty").hidden = jobs.length > 0;
  } catch (error) {
    explain(error, "Listing the recent segmentations", refresh);
  }
}

async function name(image: string): Promise<void> {
  if (names.has(image)) return;
  const info = await api.imageInfo(image).catch(() => null);
  names.set(image, info?.name ?? "image expired");
}

function item(job: Job, open: (job: Job) => void, removed: (job: Job) => void): HTMLLIElement {
  const title = names.get(job.image) ?? "image";
  const bundle = state.bundles.find(({ id }) => id === job.bundle)?.name ?? job.bundle;
  const button = make("button", { type: "button", className: "link" }, title);
  button.addEventListener("click", () => open(job));
  if (job.id === state.job?.id) button.setAttribute("aria-current", "true");
  const trash = make("button", { type: "button", className: "close", title: "Delete" }, "×");
  trash.setAttribute("aria-label", `Delete the segmentation of ${title}`);
  trash.addEventListener("click", () => void remove(job, removed));
  const when = new Date(job.created).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  return make("li", {}, button, make("span", { className: "quiet" }, `${when} · ${bundle} · ${job.status}`), trash);
}

async function remove(job: Job, removed: (job: Job) => void): Promise<void> {
  try {
    if (!ended(job)) await api.cancel(job.id).catch(() => undefined);
    await api.deleteJob(job.id);
    announce("Deleted.");
    removed(job);
  } catch (error) {
    explain(error, "Deleting");
  }
  refresh();
}
