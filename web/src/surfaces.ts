/** The surfaces of structures, for 3D: surface nets, smoothed within their voxels (Gibson, MICCAI 1998). */

import type { Nifti, Vector } from "./nifti";

export interface Surface {
  label: number;
  /** x, y, z of each point, in mm. */
  points: Float32Array;
  /** Three points for each triangle, counter-clockwise from outside. */
  triangles: Uint32Array;
}

/** A larger structure's surface is made of every second voxel, or fewer. */
const MOST_CELLS = 6e5;
const SMOOTHING_STEPS = 20;
/** How far a point may leave the middle of its cell, in voxels: what is smoothed stays where it is. */
const LEASH = 0.7;
const PATIENCE_MS = 12;

/**
 * Make the surface of each label, in pieces of a few milliseconds, so that the page stays fluid.
 *
 * Ends early, with nothing more, when `signal` is aborted.
 */
export async function* surfacesOf(labels: Nifti, signal: AbortSignal): AsyncGenerator<Surface> {
  const boxes = await boxesOf(labels, signal);
  for (const [label, box] of [...boxes].sort(([a], [b]) => a - b)) {
    await breath();
    if (signal.aborted) return;
    yield surfaceOf(labels, label, box);
  }
}

const breath = (): Promise<void> => new Promise((resolve) => setTimeout(resolve));

/** The first and the last voxel of each label along each axis. */
async function boxesOf({ dims, data }: Nifti, signal: AbortSignal): Promise<Map<number, [Vector, Vector]>> {
  const boxes = new Map<number, [Vector, Vector]>();
  let since = performance.now();
  for (let k = 0, n = 0; k < dims[2]; k++) {
    if (performance.now() - since > PATIENCE_MS) {
      await breath();
      if (signal.aborted) return new Map();
      since = performance.now();
    }
    for (let j = 0; j < dims[1]; j++, n += dims[0])
      for (let i = 0, end = 0; i < dims[0]; i = end) {
        const label = data[n + i]!;
        while (++end < dims[0] && data[n + end] === label);
        if (!label) continue;
        const box = boxes.get(label) ?? [[i, j, k], [i, j, k]];
        boxes.set(label, [
          [Math.min(box[0][0], i), Math.min(box[0][1], j), box[0][2]],
          [Math.max(box[1][0], end - 1), Math.max(box[1][1], j), k],
        ]);
      }
  }
  return boxes;
}

function surfaceOf(labels: Nifti, label: number, [first, last]: [Vector, Vector]): Surface {
  const cells = (stride: number): Vector => [0, 1, 2].map((axis) => Math.floor((last[axis]! - first[axis]!) / stride) + 3) as Vector;
  let stride = 1;
  while (cells(stride).reduce((a, b) => a * b) > MOST_CELLS) stride++;
  const size = cells(stride);
  const inside = maskOf(labels, label, first, size, stride);
  const { points, quads } = net(inside, size);
  smooth(points, quads);
  // The mask has a border of one voxel around the structure.
  for (let n = 0; n < points.length; n += 3)
    points.set(labels.mm([0, 1, 2].map((axis) => first[axis]! + stride * (points[n + axis]! - 1))), n);
  const turned = labels.determinant < 0;
  const triangles = new Uint32Array(1.5 * quads.length);
  for (let q = 0, t = 0; q < quads.length; q += 4) {
    for (const corner of turned ? [0, 2, 1, 0, 3, 2] : [0, 1, 2, 0, 2, 3]) triangles[t++] = quads[q + corner]!;
  }
  return { label, points, triangles };
}

function maskOf({ dims, data }: Nifti, label: number, first: Vector, size: Vector, stride: number): Uint8Array {
  const mask = new Uint8Array(size[0] * size[1] * size[2]);
  for (let z = 1; z < size[2] - 1; z++)
    for (let y = 1; y < size[1] - 1; y++) {
      const row = first[0] + dims[0] * (first[1] + stride * (y - 1) + dims[1] * (first[2] + stride * (z - 1)));
      const start = size[0] * (y + size[1] * z);
      for (let x = 1; x < size[0] - 1; x++) if (data[row + stride * (x - 1)] === label) mask[start + x] = 1;
    }
  return mask;
}

/** A point in the middle of each cell of eight voxels that the surface crosses, a square around each crossed edge. */
function net(inside: Uint8Array, size: Vector): { points: Float32Array; quads: Uint32Array } {
  const steps: Vector = [1, size[0], size[0] * size[1]];
  const corners = [0, 1, 2, 3, 4, 5, 6, 7].map((n) => (n & 1) * steps[0] + ((n >> 1) & 1) * steps[1] + (n >> 2) * steps[2]);
  const pointOf = new Int32Array(inside.length);
  const points: number[] = [];
  const quads: number[] = [];
  for (let z = 0; z < size[2] - 1; z++)
    for (let y = 0; y < size[1] - 1; y++)
      for (let x = 0, n = size[0] * (y + size[1] * z); x < size[0] - 1; x++, n++) {
        let count = 0;
        for (const corner of corners) count += inside[n + corner]!;
        if (count === 0 || count === 8) continue;
        pointOf[n] = points.length / 3;
        points.push(x + 0.5, y + 0.5, z + 0.5);
        for (let axis = 0; axis < 3; axis++) {
          const [here, there] = [inside[n]!, inside[n + steps[axis]!]!];
          if (here === there) continue;
          const [u, v] = [steps[(axis + 1) % 3]!, steps[(axis + 2) % 3]!];
          const around = [n, n - u, n - u - v, n - v].map((cell) => pointOf[cell]!);
          quads.push(...(here ? around : around.reverse()));
        }
      }
  return { points: Float32Array.from(points), quads: Uint32Array.from(quads) };
}

/** Draw each point to the mean of its neighbours, but not far out of its cell. */
function smooth(points: Float32Array, quads: Uint32Array): void {
  const middles = points.slice();
  const sums = new Float32Array(points.length);
  const counts = new Uint16Array(points.length / 3);
  for (let q = 0; q < quads.length; q++) counts[quads[q]!]! += 2;
  for (let step = 0; step < SMOOTHING_STEPS; step++) {
    sums.fill(0);
    for (let q = 0; q < quads.length; q++) {
      const [a, b] = [3 * quads[q]!, 3 * quads[q % 4 === 3 ? q - 3 : q + 1]!];
      for (let axis = 0; axis < 3; axis++) {
        sums[a + axis]! += points[b + axis]!;
        sums[b + axis]! += points[a + axis]!;
      }
    }
    for (let n = 0; n < points.length; n++) {
      const [mean, middle] = [sums[n]! / counts[Math.floor(n / 3)]!, middles[n]!];
      points[n] = Math.min(middle + LEASH, Math.max(middle - LEASH, mean));
    }
  }
}
