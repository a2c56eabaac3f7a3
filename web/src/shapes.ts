/** Which voxels a stroke, a filled outline, or the shape between two slices takes; nothing of the page. */

import type { Vector } from "./nifti";

/** How an image's voxels lie in the array of its file, along right, anterior, superior. */
export interface Grid {
  extents: Vector;
  /** The first voxel in the array. */
  start: number;
  /** From one voxel to the next in the array, along each axis. */
  stride: Vector;
  /** A voxel's edges in mm; 1 where a picture has pixels. */
  sizes: Vector;
}

/** A place within the image, in voxels from its first one's outer corner. */
export type Point = Vector;

export const indexOf = ({ start, stride }: Grid, [r, a, s]: Vector): number => start + r * stride[0] + a * stride[1] + s * stride[2];

/**
 * Give `use` each voxel whose centre is within `radius` mm of the line between two points.
 *
 * @param axis the one across the plane that is drawn in: only its slice is taken, unless `ball`.
 * The voxels that the line itself runs through are always among them, however small the radius is.
 */
export function alongStroke(grid: Grid, from: Point, to: Point, radius: number, axis: number, ball: boolean, use: (index: number) => void): void {
  const { extents, sizes, start, stride } = grid;
  const reach = sizes.map((size, each) => (each === axis && !ball ? 0 : radius / size));
  const first = from.map((at, each) => Math.max(0, Math.floor(Math.min(at, to[each]!) - reach[each]!)));
  const last = from.map((at, each) => Math.min(extents[each]! - 1, Math.floor(Math.max(at, to[each]!) + reach[each]!)));
  const line = to.map((at, each) => (at - from[each]!) * sizes[each]!) as Vector;
  const length2 = line[0] ** 2 + line[1] ** 2 + line[2] ** 2;
  const radius2 = radius ** 2;
  const away = (voxel: number, each: number): number => (each === axis && !ball ? 0 : (voxel + 0.5 - from[each]!) * sizes[each]!);
  for (let s = first[2]!; s <= last[2]!; s++) {
    const z = away(s, 2);
    for (let a = first[1]!; a <= last[1]!; a++) {
      const y = away(a, 1);
      for (let r = first[0]!; r <= last[0]!; r++) {
        const x = away(r, 0);
        const along = length2 ? Math.min(1, Math.max(0, (x * line[0] + y * line[1] + z * line[2]) / length2)) : 0;
        const distance2 = (x - along * line[0]) ** 2 + (y - along * line[1]) ** 2 + (z - along * line[2]) ** 2;
        if (distance2 <= radius2) use(start + r * stride[0] + a * stride[1] + s * stride[2]);
      }
    }
  }
  const steps = 2 * Math.ceil(Math.max(...to.map((at, each) => Math.abs(at - from[each]!)))) + 1;
  for (let n = 0; n <= steps; n++) {
    const voxel = to.map((at, each) => Math.floor(from[each]! + ((at - from[each]!) * n) / steps)) as Vector;
    if (voxel.every((at, each) => at >= 0 && at < extents[each]!)) use(indexOf(grid, voxel));
  }
}

/**
 * The voxels of one slice that hang together with `from` and are labelled as it is.
 *
 * @returns null where they reach the slice's border: the outline is not closed.
 */
export function closedRegion(grid: Grid, labels: ArrayLike<number>, from: Vector, axis: number): number[] | null {
  const [across, up] = [0, 1, 2].filter((each) => each !== axis) as [number, number];
  const [width, height] = [grid.extents[across]!, grid.extents[up]!];
  const [right, above] = [grid.stride[across]!, grid.stride[up]!];
  const corner = from.map((at, each) => (each === axis ? at : 0)) as Vector;
  const first = indexOf(grid, corner);
  const value = labels[indexOf(grid, from)];
  const seen = new Uint8Array(width * height);
  const waiting = [from[across]! + width * from[up]!];
  seen[waiting[0]!] = 1;
  const region: number[] = [];
  while (waiting.length) {
    const at = waiting.pop()!;
    const [u, v] = [at % width, Math.floor(at / width)];
    if (u === 0 || v === 0 || u === width - 1 || v === height - 1) return null;
    region.push(first + u * right + v * above);
    for (const next of [at - 1, at + 1, at - width, at + width]) {
      if (seen[next] || labels[first + (next % width) * right + Math.floor(next / width) * above] !== value) continue;
      seen[next] = 1;
      waiting.push(next);
    }
  }
  return region;
}

/** One slice's mask, row by row. */
export interface Mask {
  width: number;
  height: number;
  inside: Uint8Array;
}

const NOWHERE = 1e20;

/**
 * The shapes of `count` slices between two that are not empty: both shapes' signed distances are laid
 * with their centres over each other, and mixed (Raya and Udupa, IEEE Trans. Med. Imaging 1990).
 *
 * @param sizes a pixel's width and height in mm.
 */
export function between(first: Mask, second: Mask, sizes: [number, number], count: number): Uint8Array[] {
  const { width, height } = first;
  const [here, there] = [centre(first), centre(second)];
  const shift = [there[0] - here[0], there[1] - here[1]] as const;
  const [one, other] = [signedDistances(first, sizes), signedDistances(second, sizes)];
  return Array.from({ length: count }, (_, n) => {
    const t = (n + 1) / (count + 1);
    return Uint8Array.from({ length: width * height }, (_, at) => {
      const [u, v] = [at % width, Math.floor(at / width)];
      const a = sampled(one, width, height, u - t * shift[0], v - t * shift[1]);
      const b = sampled(other, width, height, u + (1 - t) * shift[0], v + (1 - t) * shift[1]);
      return (1 - t) * a + t * b < 0 ? 1 : 0;
    });
  });
}

function centre({ width, inside }: Mask): [number, number] {
  let [u, v, count] = [0, 0, 0];
  inside.forEach((each, n) => {
    if (!each) return;
    u += n % width;
    v += Math.floor(n / width);
    count += 1;
  });
  return [u / count, v / count];
}

/** The distance of each pixel to the shape's border, half-way between pixels; negative inside. */
export function signedDistances({ width, height, inside }: Mask, sizes: [number, number]): Float64Array {
  const out = squaredDistances(width, height, sizes, (n) => inside[n] === 1);
  const within = squaredDistances(width, height, sizes, (n) => inside[n] === 0);
  return out.map((each, n) => (each ? Math.sqrt(each) - Math.min(...sizes) / 2 : Math.min(...sizes) / 2 - Math.sqrt(within[n]!)));
}

/** Squared distances to the nearest pixel of a set (Felzenszwalb and Huttenlocher, 2012). */
function squaredDistances(width: number, height: number, sizes: [number, number], isIn: (n: number) => boolean): Float64Array {
  const distances = Float64Array.from({ length: width * height }, (_, n) => (isIn(n) ? 0 : NOWHERE));
  for (let v = 0; v < height; v++) transformLine(distances, v * width, 1, width, sizes[0]);
  for (let u = 0; u < width; u++) transformLine(distances, u, width, height, sizes[1]);
  return distances;
}

/** In place: each entry of a line becomes the least over all others of their value and the squared way to them. */
function transformLine(all: Float64Array, first: number, step: number, count: number, size: number): void {
  const value = Float64Array.from({ length: count }, (_, n) => all[first + n * step]!);
  const lowest = new Int32Array(count); // the parabolas of the lower envelope
  const border = new Float64Array(count + 1); // where each begins
  let top = 0;
  [border[0], border[1]] = [-Infinity, Infinity];
  const meet = (a: number, b: number): number => (value[b]! - value[a]!) / (2 * size * size * (b - a)) + (a + b) / 2;
  for (let n = 1; n < count; n++) {
    while (meet(lowest[top]!, n) <= border[top]!) top -= 1;
    border[top + 1] = meet(lowest[top]!, n);
    lowest[(top += 1)] = n;
    border[top + 1] = Infinity;
  }
  for (let n = 0, at = 0; n < count; n++) {
    while (border[at + 1]! < n) at += 1;
    all[first + n * step] = value[lowest[at]!]! + ((n - lowest[at]!) * size) ** 2;
  }
}

/** Between pixels, and beyond the border as at it. */
function sampled(values: Float64Array, width: number, height: number, u: number, v: number): number {
  const [x, y] = [Math.min(width - 1, Math.max(0, u)), Math.min(height - 1, Math.max(0, v))];
  const [left, lower] = [Math.min(width - 2, Math.floor(x)), Math.min(height - 2, Math.floor(y))];
  if (width < 2 || height < 2) return values[Math.round(x) + width * Math.round(y)]!;
  const at = (i: number, j: number): number => values[left + i + width * (lower + j)]!;
  const [p, q] = [x - left, y - lower];
  return (1 - p) * ((1 - q) * at(0, 0) + q * at(0, 1)) + p * ((1 - q) * at(1, 0) + q * at(1, 1));
}
