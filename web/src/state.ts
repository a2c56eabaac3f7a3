/** What is open on the page, and who is told when it changes. */

import type { Nifti, Vector } from "./nifti";
import type { Bundle, ImageInfo, Job, LabelMap } from "./types";

export interface OpenImage {
  info: ImageInfo;
  voxels: Nifti;
}

interface State {
  bundles: Bundle[];
  image: OpenImage | null;
  /** What was segmented last, or is being segmented. */
  job: Job | null;
  labels: Nifti | null;
  /** What `labels` are. */
  shown: LabelMap | null;
  /** The crosshair's voxel, in the order of the image's file. */
  voxel: Vector;
  /** The same place in millimetres. */
  mm: Vector;
}

export const state: State = {
  bundles: [],
  image: null,
  job: null,
  labels: null,
  shown: null,
  voxel: [0, 0, 0],
  mm: [0, 0, 0],
};

type Topic = "bundles" | "image" | "job" | "labels" | "place" | "tool" | "layout" | "edit" | "structures" | "versions" | "maps" | "compared";
const listeners = new Map<Topic, (() => void)[]>();

export function on(topic: Topic, listener: () => void): void {
  listeners.set(topic, [...(listeners.get(topic) ?? []), listener]);
}

export function changed(topic: Topic): void {
  for (const listener of listeners.get(topic) ?? []) listener();
}

/** The bundle that a job ran with, if it is still served. */
export function bundleOf(job: Job | null): Bundle | undefined {
  return state.bundles.find(({ id }) => id === job?.bundle);
}
