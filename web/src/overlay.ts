/** What lies on the planes that NiiVue draws: structures as areas and outlines, and the crosshair. */

import { contoursOf, type Loop, type Plane } from "./contours";
import type { Vector } from "./nifti";
import { drawOnTiles, fontOf, pixelOf, type Tile, writeText } from "./tiles";

const OUTLINE_PX = 2;
const DASH_PX = [6, 5];
const CROSSHAIR_GAP_PX = 9;
/** No structure has this one: they are pastel. */
export const CROSSHAIR = "#ff2b2b";
export const REFERENCE = "#ffffff";
/** Blue, orange and white differ for any colour vision, and in brightness too. */
export const DIFFERENCE = { agreed: "#ffffff", missed: "#2f6bff", extra: "#ff9500", otherwise: "#e01fd0" };
/** What is right is a veil, through which the image is seen. */
const AGREED_ALPHA = 90;
const [AGREED, MISSED, EXTRA, OTHERWISE] = [1, 2, 3, 4];
const DIFFERENCE_COLOURS = new Map(Object.values(DIFFERENCE).map((color, n) => [n + 1, color]));

/** A plane of labels with what was made of it. */
class Cut {
  private area: HTMLCanvasElement | null = null;
  private lines: Map<number, Loop[]> | null = null;

  constructor(
    readonly plane: Plane,
    readonly colours: Map<number, string>,
  ) {}

  /** One pixel for each voxel, in its structure's colour. */
  get areas(): HTMLCanvasElement {
    if (this.area) return this.area;
    const { width, height, values } = this.plane;
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const context = canvas.getContext("2d")!;
    const image = context.createImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    const table = new Uint32Array(65536);
    for (const [value, color] of this.colours) table[value] = pixel(color);
    for (let n = 0; n < pixels.length; n++) pixels[n] = table[values[n]!]!;
    context.putImageData(image, 0, 0);
    return (this.area = canvas);
  }

  get outlines(): Map<number, Loop[]> {
    return (this.lines ??= contoursOf(this.plane));
  }
}

/** #rrggbb as a pixel of image data, on a little-endian machine: all that run browsers. */
function pixel(color: string): number {
  const rgb = parseInt(color.slice(1), 16);
  const alpha = color === DIFFERENCE.agreed ? AGREED_ALPHA : 255;
  return ((alpha << 24) | ((rgb & 255) << 16) | (rgb & 0xff00) | (rgb >> 16)) >>> 0;
}

/** A label map that is cut into the planes of the screen; each axis keeps the last plane. */
export class DrawnLabels {
  private readonly kept: ({ slice: number; cut: Cut } | null)[] = [null, null, null];

  /**
   * @param data in the order of the image's file, 0 to 65535; it may be changed, see `forget`.
   * @param extents voxels along right, anterior, superior.
   * @param start the first of them in `data`.
   * @param stride from one to the next in `data`, along each axis.
   */
  constructor(
    readonly data: ArrayLike<number>,
    readonly colours: Map<number, string>,
    private readonly extents: Vector,
    private readonly start: number,
    private readonly stride: Vector,
    private readonly hidden: Set<number>,
  ) {}

  cut({ axis, slice, across, up }: Tile): Cut {
    const kept = this.kept[axis];
    if (kept?.slice === slice) return kept.cut;
    const [width, height] = [this.extents[across]!, this.extents[up]!];
    const values = new Uint16Array(width * height);
    const [first, right, above] = [this.start + slice * this.stride[axis]!, this.stride[across]!, this.stride[up]!];
    for (let v = 0, n = 0; v < height; v++)
      for (let u = 0, at = first + v * above; u < width; u++, at += right) values[n++] = this.data[at]!;
    if (this.hidden.size) values.forEach((value, n) => this.hidden.has(value) && (values[n] = 0));
    const cut = new Cut({ width, height, values }, this.colours);
    this.kept[axis] = { slice, cut };
    return cut;
  }

  /** The data or what is hidden changed. */
  forget(): void {
    this.kept.fill(null);
  }
}

/** Where two planes agree, where `cut` misses what `reference` has, where it has more, and where another structure. */
function difference(cut: Plane, reference: Plane): Cut {
  const values = cut.values.map((value, n) => {
    const expected = reference.values[n]!;
    if (value === expected) return value ? AGREED : 0;
    return !value ? MISSED : !expected ? EXTRA : OTHERWISE;
  });
  return new Cut({ ...cut, values }, DIFFERENCE_COLOURS);
}

export type Comparing = "outline" | "difference" | "sides" | "blink";

/** What is to be drawn on every plane. */
export interface Drawing {
  labels: DrawnLabels | null;
  compared: DrawnLabels | null;
  comparing: Comparing;
  /** How much of the compared label map stands for the other, on each tile, from 0 to 1. */
  share: number[];
  /** What the two are called. */
  names: [string, string];
  opacity: number;
  outlined: boolean;
  /** The voxel at it, along right, anterior, superior; none where it is not to be seen. */
  crosshair: Vector | null;
}

export class Overlay {
  private readonly context: CanvasRenderingContext2D;

  constructor(canvas: HTMLCanvasElement) {
    this.context = canvas.getContext("2d")!;
  }

  /** @param size of the canvas below it, in pixels. */
  draw(tiles: Tile[], drawing: Drawing, size: { width: number; height: number }): void {
    const named = drawing.compared && ["sides", "blink"].includes(drawing.comparing);
    const captioned = new Set<string>(); // once for each of the two is enough
    drawOnTiles(this.context, size, tiles, (tile, n) => {
      const share = drawing.share[n] ?? 0;
      this.drawLabels(tile, drawing, share);
      const name = drawing.names[share > 0.5 ? 1 : 0];
      if (named && !captioned.has(name)) this.caption(tile, name);
      captioned.add(name);
      if (drawing.crosshair) this.drawCrosshair(tile, drawing.crosshair);
    });
  }

  private drawLabels(tile: Tile, { labels, compared, comparing, opacity, outlined }: Drawing, share: number): void {
    if (compared && labels && comparing === "difference") {
      this.fill(tile, difference(labels.cut(tile).plane, compared.cut(tile).plane), opacity);
      return;
    }
    for (const [shown, part] of [[labels, 1 - share], [compared, share]] as const) {
      if (!shown || !part) continue;
      this.context.globalAlpha = part;
      if (outlined) this.outline(tile, shown.cut(tile), OUTLINE_PX);
      else this.fill(tile, shown.cut(tile), opacity * part);
      this.context.globalAlpha = 1;
    }
    if (compared && comparing === "outline") this.reference(tile, compared.cut(tile));
  }

  private fill(tile: Tile, cut: Cut, opacity: number): void {
    const { context } = this;
    context.save();
    context.globalAlpha = opacity;
    context.imageSmoothingEnabled = false;
    context.setTransform(tile.step[0], 0, 0, tile.step[1], ...tile.corner);
    context.drawImage(cut.areas, 0, 0);
    context.restore();
  }

  /** @param color of all that is drawn, instead of each structure's own. */
  private outline({ corner, step }: Tile, cut: Cut, width: number, color?: string): void {
    const { context } = this;
    context.lineWidth = width * devicePixelRatio;
    context.lineJoin = "round";
    for (const [label, loops] of cut.outlines) {
      context.strokeStyle = color ?? cut.colours.get(label) ?? "transparent";
      context.beginPath();
      for (const loop of loops) {
        context.moveTo(corner[0] + step[0] * loop[0]!, corner[1] + step[1] * loop[1]!);
        for (let n = 2; n < loop.length; n += 2)
          context.lineTo(corner[0] + step[0] * loop[n]!, corner[1] + step[1] * loop[n + 1]!);
        context.closePath();
      }
      context.stroke();
    }
  }

  /** White on black, and dashed: it is seen on any image, and what it agrees with between its dashes. */
  private reference(tile: Tile, cut: Cut): void {
    const { context } = this;
    context.setLineDash(DASH_PX.map((length) => length * devicePixelRatio));
    this.outline(tile, cut, OUTLINE_PX + 2, "#000000");
    this.outline(tile, cut, OUTLINE_PX, REFERENCE);
    context.setLineDash([]);
  }

  private caption({ rect: [left, top, width] }: Tile, text: string): void {
    const font = (this.context.font = fontOf(13));
    const [margin, below] = [8 * devicePixelRatio, 38 * devicePixelRatio]; // the letter of a side
    const fits = (each: string): boolean => this.context.measureText(each).width <= width - 2 * margin;
    let shown = text;
    for (let kept = text.length - 1; kept && !fits(shown); kept--) shown = `${text.slice(0, kept).trimEnd()}…`;
    writeText(this.context, shown, left + margin, top + below, font);
  }

  private drawCrosshair(tile: Tile, voxel: Vector): void {
    const { context } = this;
    const [[left, top, width, height], [x, y]] = [tile.rect, pixelOf(tile, voxel)];
    const gap = CROSSHAIR_GAP_PX * devicePixelRatio;
    context.strokeStyle = CROSSHAIR;
    context.lineWidth = devicePixelRatio;
    context.beginPath();
    for (const [x1, y1, x2, y2] of [[left, y, x - gap, y], [x + gap, y, left + width, y], [x, top, x, y - gap], [x, y + gap, x, top + height]]) {
      context.moveTo(x1!, y1!);
      context.lineTo(x2!, y2!);
    }
    context.stroke();
  }
}
