/** The planes on the screen: where a voxel lies on them, and what is drawn and clicked there. */

import type { Vector } from "./nifti";

type Pixel = [x: number, y: number];

/** A plane as it is on the screen, in pixels of the canvas. */
export interface Tile {
  /** The axis (right, anterior, superior) that it is cut across, and the slice along it. */
  axis: number;
  slice: number;
  /** The axes that run along the screen. */
  across: number;
  up: number;
  rect: [left: number, top: number, width: number, height: number];
  /** Where the outer corner of the first voxel lies. */
  corner: Pixel;
  /** From one voxel to the next; negative to the left and upwards. */
  step: Pixel;
}

/** Where a pointer is, in pixels of a canvas. */
export function canvasPixel({ clientX, clientY }: { clientX: number; clientY: number }, canvas: HTMLCanvasElement): Pixel {
  const { left, top, width, height } = canvas.getBoundingClientRect();
  return [((clientX - left) * canvas.width) / width, ((clientY - top) * canvas.height) / height];
}

export const isOn = ({ rect: [left, top, width, height] }: Tile, [x, y]: Pixel): boolean =>
  x >= left && x < left + width && y >= top && y < top + height;

/** Where the centre of a voxel lies, by its place along right, anterior, superior. */
export const pixelOf = ({ across, up, corner, step }: Tile, voxel: Vector): Pixel =>
  [corner[0] + step[0] * (voxel[across]! + 0.5), corner[1] + step[1] * (voxel[up]! + 0.5)];

/** The place at a pixel, along right, anterior, superior: voxels from their centres. */
export function placeAt({ axis, slice, across, up, corner, step }: Tile, [x, y]: Pixel): Vector {
  const place: Vector = [0, 0, 0];
  place[axis] = slice;
  place[across] = (x - corner[0]) / step[0] - 0.5;
  place[up] = (y - corner[1]) / step[1] - 0.5;
  return place;
}

/** Clear a canvas that is as large as the one below it, and draw on each plane, within its rectangle. */
export function drawOnTiles(context: CanvasRenderingContext2D, below: { width: number; height: number }, tiles: Tile[], draw: (tile: Tile, n: number) => void): void {
  const { canvas } = context;
  if (canvas.width !== below.width || canvas.height !== below.height) Object.assign(canvas, { width: below.width, height: below.height });
  context.clearRect(0, 0, canvas.width, canvas.height);
  for (const [n, tile] of tiles.entries()) {
    context.save();
    context.beginPath();
    context.rect(...tile.rect);
    context.clip();
    draw(tile, n);
    context.restore();
  }
}

export const fontOf = (size: number, weight = 600): string => `${weight} ${size * devicePixelRatio}px system-ui, sans-serif`;

/** Write with a dark rim, which is read on any image. */
export function writeText(context: CanvasRenderingContext2D, text: string, x: number, y: number, font: string, color = "#ffffff"): void {
  context.font = font;
  context.lineWidth = 3 * devicePixelRatio;
  context.strokeStyle = "#000000";
  context.fillStyle = color;
  context.strokeText(text, x, y);
  context.fillText(text, x, y);
}
