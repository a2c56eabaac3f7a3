/** The view as a picture to keep: planes, what is drawn on them, letters and scale; whose it is only if asked. */

import { byId } from "./dom";
import { save, stem } from "./files";
import { announce } from "./messages";
import { state } from "./state";
import { fontOf, writeText } from "./tiles";
import type { Viewer } from "./viewer";

/** @param named whether the case is written on it, and its file called by it. */
export function savePicture(viewer: Viewer, named: boolean): void {
  if (!state.image) return;
  const stage = byId("stage");
  const canvases = stage.querySelectorAll("canvas");
  const { width, height } = canvases[0]!;
  const made = Object.assign(document.createElement("canvas"), { width, height });
  const context = made.getContext("2d")!;
  viewer.draw(); // a browser keeps what is drawn with WebGL only until it is shown
  for (const each of canvases) context.drawImage(each, 0, 0, width, height);
  drawLetters(context, stage);
  if (named) drawText(context, [byId("case-name"), byId("case-study")].map((each) => each.textContent).join("  "), 8, 18);
  made.toBlob((blob) => blob && save(blob, named ? `${stem(state.image!.info.name)}.png` : "view.png"));
  announce(named ? "Picture saved, with the case's name." : "Picture saved, without a name.");
}

function drawLetters(context: CanvasRenderingContext2D, stage: HTMLElement): void {
  const { left, top } = stage.getBoundingClientRect();
  for (const letter of byId("letters").querySelectorAll("span")) {
    const box = letter.getBoundingClientRect();
    drawText(context, letter.textContent!, box.left - left + 5, box.top - top + box.height * 0.75, getComputedStyle(letter).color);
  }
}

/** @param x in CSS pixels, as `y`, the line that the text stands on. */
function drawText(context: CanvasRenderingContext2D, text: string, x: number, y: number, color = "#ffffff"): void {
  const unit = devicePixelRatio;
  writeText(context, text, x * unit, y * unit, fontOf(14, 700), color);
}
