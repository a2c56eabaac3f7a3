/** How far to trust each structure of a result: a light of its own colour and shape, words, a reason. */

import { make, sentence } from "./dom";
import type { Job, Statistic } from "./types";

const VOLUME = "In nine of ten cases the true volume lies in the interval";

interface Verdict {
  light: "good" | "doubtful" | "look" | "unknown";
  words: string;
  reason: string;
}

/** Whether the bundle said anything of this structure. */
export const isAssessed = ({ look }: Statistic): boolean => look != null;

/** @param interval between which the volume is to be expected; empty where that is not known. */
export function trustOf(found: Statistic, job: Job, interval: string): HTMLDetailsElement {
  const { light, words, reason } = verdict(found, job.warnings.length > 0);
  const dot = make("span", { className: `light ${light}`, ariaHidden: "true" });
  const volume = make("span", { className: "quiet", title: VOLUME }, interval);
  const summary = make("summary", {}, dot, make("span", { className: "words", title: reason }, words), volume);
  const told = interval ? `${reason} ${VOLUME}.` : reason;
  return make("details", {}, summary, make("p", { className: "quiet" }, told));
}

function verdict(found: Statistic, unlike: boolean): Verdict {
  const { expected_dice: expected, expected_within: within } = found;
  const image = unlike ? " The image is unlike those of training: see above." : "";
  const dice = expected != null ? `expected Dice ${expected.toFixed(2)}\u00a0±\u00a0${(within ?? 0).toFixed(2)}` : "";
  if (found.look) {
    const reason = sentence(found.reason ?? "it is likely to be bad") + image;
    return { light: "look", words: `look at this: ${dice || "not found"}`, reason };
  }
  if (expected == null) {
    const absent = "It was not found; some held-out cases do not have it either.";
    return { light: "unknown", words: "not known", reason: found.voxels ? "Too few held-out cases have it." : absent };
  }
  const doubtful = { light: "doubtful", words: `doubtful: ${dice}` } as const;
  if (unlike) return { ...doubtful, reason: `It may be worse than that.${image}` };
  if (found.reason) return { ...doubtful, reason: sentence(found.reason) };
  return { light: "good", words: dice, reason: "On held-out cases nine of ten results lay within such a range." };
}
