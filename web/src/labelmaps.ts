/** The label maps of the image that is open: results of jobs, files that were given, corrections. */

import * as api from "./api";
import { type Nifti, placedIn, readNifti } from "./nifti";
import { explain } from "./messages";
import { bundleOf, changed, on, state } from "./state";
import type { Job, LabelMap } from "./types";

/** Of the image that is open, as the server had them last. */
export let maps: LabelMap[] = [];

export function connectLabelMaps(): void {
  on("image", () => keep([]));
  for (const topic of ["labels", "versions"] as const) on(topic, () => void load());
}

async function load(): Promise<void> {
  const image = state.image?.info.id;
  if (!image) return;
  try {
    const found = await labelMapsOf(image);
    if (state.image?.info.id === image) keep(found);
  } catch (error) {
    explain(error, "Listing the label maps", () => void load());
  }
}

/** Know of a label map that was just sent. */
export const addMap = (map: LabelMap): void => keep([...maps, map]);

function keep(found: LabelMap[]): void {
  maps = found;
  changed("maps");
}

export function mapOfJob(job: Job): LabelMap {
  const known = bundleOf(job)?.labels ?? job.statistics ?? [];
  const structures = known.filter(({ index }) => index > 0).map(({ index, name, color, ...more }) => {
    const measured = job.statistics?.find((each) => each.index === index);
    const members = "members" in more ? more.members : [index];
    return { index, name, color, members, voxels: measured?.voxels ?? 0, volume_ml: measured?.volume_ml ?? 0 };
  });
  const name = bundleOf(job)?.name ?? job.bundle;
  return { kind: "job", id: job.id, name, author: null, created: job.created, structures, job };
}

/** All that can be shown on an image: results, then files and corrections, the oldest first. */
export async function labelMapsOf(image: string): Promise<LabelMap[]> {
  const [jobs, others] = await Promise.all([api.jobs(), api.labelMaps(image)]);
  const done = jobs.filter((job) => job.image === image && job.status === "done").map(mapOfJob);
  return [...done, ...others].sort((a, b) => Date.parse(a.created) - Date.parse(b.created));
}

export function nameOfMap({ kind, name, author, created }: LabelMap): string {
  const time = new Date(created).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  return { job: `${name}, ${time}`, given: name, correction: `${name}, ${author ?? time}` }[kind];
}

/** The bundle whose result a label map is, corrected or not. */
export function bundleIdOf(map: LabelMap | null): string | undefined {
  return map ? (map.job?.bundle ?? bundleIdOf(maps.find(({ id }) => id === map.parent) ?? null)) : undefined;
}

/** The part of the API's address that tells of a label map. */
export const addressOf = ({ kind, id }: LabelMap): string => `${kind === "job" ? "jobs" : "labels"}/${id}`;

/** Its voxels, lying on the image that is open. */
export async function fetchLabels(map: LabelMap): Promise<Nifti> {
  const labels = placedIn(state.image!.voxels, await readNifti(await api.blob(`${addressOf(map)}/labels.nii.gz`)));
  labels.structures = map.structures;
  return labels;
}
