/** The map of doubt: where the network is unsure, over the image; the labels are faint meanwhile. */

import * as api from "./api";
import { attentionOn } from "./attention";
import { byId, toggle } from "./dom";
import { announce, explain } from "./messages";
import { type Nifti, placedIn, readNifti } from "./nifti";
import { setTool } from "./pointer";
import { bundleOf, on, state } from "./state";
import type { Viewer } from "./viewer";

const OPACITY = 0.85;
/** Of labels' opacity meanwhile. */
const FAINT = 0.3;
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
    if (on && attentionOn()) setTool("look");
    active = on;
    byId("doubt-scale").hidden = byId("doubt-text").hidden = !on;
    viewer.setLabelsStrength(on ? FAINT : attentionOn() ? 0 : 1);
    void (on ? show() : viewer.showHeat(null));
  });
  toggleDoubt = (on) => {
    if (!button.hidden) set(on);
  };
  on("tool", () => active && attentionOn() && set(false));
  on("labels", () => {
    if (active) set(false);
    map = null;
    button.hidden = !state.shown?.job?.uncertainty;
  });
}

/** What the map holds where two structures, or a region and what is around it, are as likely. */
function evenOdds(): number {
  const structures = state.shown!.structures.length;
  if (bundleOf(state.shown!.job!)?.overlapping) return 100 / structures; // the mean of the regions' own
  return (100 * Math.LN2) / Math.log(structures + 1); // of all classes alike, background included
}

async function show(): Promise<void> {
  const { image } = state;
  const job = state.shown?.job;
  if (!job || !image) return;
  try {
    if (!map) {
      const fetched = placedIn(image.voxels, await readNifti(await api.blob(`jobs/${job.id}/uncertainty.nii.gz`)));
      if (state.shown?.id !== job.id) return;
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
