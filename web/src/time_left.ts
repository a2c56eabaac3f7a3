/** How long a job still takes, from how fast its steps were done. */

/** Earlier, what starts up slowly would be taken for how it goes on. */
const TOLD_AFTER_S = 2;

export class TimeLeft {
  private since: { done: number; at: number } | null = null;

  /** @param now in milliseconds; returns a few words, none while there is nothing to tell. */
  tell(done: number, total: number, now = performance.now()): string {
    // The first steps are done when they are told of: only those after them were timed.
    if (!this.since || done < this.since.done) this.since = { done, at: now };
    const seconds = (now - this.since.at) / 1000;
    const steps = done - this.since.done;
    if (seconds < TOLD_AFTER_S || !steps || done >= total) return "";
    return words((seconds / steps) * (total - done));
  }
}

/** In steps so coarse that they do not flicker. */
function words(seconds: number): string {
  if (seconds < 10) return "a few seconds left";
  if (seconds < 55) return `about ${10 * Math.ceil(seconds / 10)} s left`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `about ${minutes} min left` : `about ${(seconds / 3600).toFixed(1)} h left`;
}
