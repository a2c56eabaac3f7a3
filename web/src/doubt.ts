/** The map of doubt: where the network is unsure, over the image; the labels are faint meanwhile. */

import * as api from "./api";
import { toggleAttention } from "./attention";
import { byId, toggle } from "./dom";
import { announce, explain } from "./messages";
import { type Nifti, placedIn, readNifti } from "./nifti";
import { bundleOf, on, state } from "./state";
import { labelsOfJob } from "./structures";
import type { Viewer } from "./viewer";

const OPACITY = 0.85;
/** Of the brightest; fainter doubt fades, and the image shows. */
const SOLID = 0.4;

const button = byId<HTMLButtonElement>("toggle-doubt");
let active = false;
/** The map of the result that is open, once it was asked for. */
let map: Nifti | null = null;
let viewer: Viewer;

export let toggleDoubt: (on?: boolean) => void;

export function connectDoubt(shown: Viewer): void {
  viewer = shown;
  const set = toggle("toggle-doubt", (on) => {
    if (on) toggleAttention(false);
    active = on;
    byId("doubt-scale").hidden = byId("doubt-text").hidden = !on;
    viewer.setLabelsFaint(on);
    void (on ? show() : viewer.showHeat(null));
  });
  toggleDoubt = (on) => {
    if (!button.hidden) set(on);
  };
  on("attention", () => active && set(false));
  on("labels", () => {
    if (active) set(false);
    map = null;
    button.hidden = !state.labels || !state.job?.uncertainty;
  });
}

/** What the map holds where two structures, or a region and what is around it, are as likely. */
function evenOdds(): number {
  const structures = labelsOfJob().length;
  if (bundleOf(state.job)?.overlapping) return 100 / structures; // the mean of the regions' own
  return (100 * Math.LN2) / Math.log(structures + 1); // of all classes alike, background included
}

async function show(): Promise<void> {
  const { job, image } = state;
  if (!job || !image) return;
  try {
    if (!map) {
      const fetched = placedIn(image.voxels, await readNifti(await api.blob(`jobs/${job.id}/uncertainty.nii.gz`)));
      if (state.job?.id !== job.id) return;
      map = fetched;
    }
    if (!active) return;
    await viewer.showHeat(map, OPACITY, evenOdds(), SOLID);
    announce("Doubt is shown.");
  } catch (error) {
    if (active) toggleDoubt(false);
    explain(error, "Showing doubt", () => toggleDoubt(true));
  }
}
