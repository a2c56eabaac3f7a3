/** A bar of a round length on each plane. */

import { fontOf, type Tile } from "./tiles";

/** Of the plane's width, at most. */
const SHARE = 0.25;

/** @param perUnit pixels of the screen in a millimetre, or of a picture's pixels. */
export function drawScaleBar(context: CanvasRenderingContext2D, { rect: [left, top, width, height] }: Tile, perUnit: number, picture: boolean): void {
  const length = roundLength((SHARE * width) / perUnit);
  const text = picture ? `${length} px` : length >= 10 ? `${length / 10} cm` : `${length} mm`;
  const [unit, long] = [devicePixelRatio, length * perUnit];
  // Clear of the letter of the side.
  const [x, y] = [left + width - long - 24 * unit, top + height - 12 * unit];
  context.beginPath();
  context.moveTo(x, y - 4 * unit);
  context.lineTo(x, y);
  context.lineTo(x + long, y);
  context.lineTo(x + long, y - 4 * unit);
  context.font = fontOf(11);
  context.textAlign = "center";
  for (const [style, thickness] of [["#000000", 4], ["#ffffff", 1.5]] as const) {
    context.strokeStyle = style;
    context.lineWidth = thickness * unit;
    context.stroke();
    if (thickness === 4) context.strokeText(text, x + long / 2, y - 6 * unit);
  }
  context.fillStyle = "#ffffff";
  context.fillText(text, x + long / 2, y - 6 * unit);
  context.textAlign = "start";
}

/** The longest of 1, 2, 5, 10, 20, ... that is not longer. */
function roundLength(most: number): number {
  const power = 10 ** Math.floor(Math.log10(most));
  return power * [5, 2, 1].find((each) => each * power <= most)!;
}
