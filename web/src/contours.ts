/** The lines around structures in a plane, by marching squares: the same in a tangential plane as in any. */

/** One plane of a label map, `values` row by row. */
export interface Plane {
  width: number;
  height: number;
  values: Uint16Array;
}

/** A closed line: x1, y1, x2, y2, ... in voxels from the plane's outer corner. */
export type Loop = number[];

/**
 * The contour of each label, half-way between the centres of voxels inside and outside.
 *
 * What touches the plane's border is closed there; two voxels that touch by their tips only are two pieces.
 */
export function contoursOf({ width, height, values }: Plane): Map<number, Loop[]> {
  // For each label, from which point its line goes on to which; every point has one line in and one out.
  const next = new Map<number, Map<number, number>>();
  const at = (u: number, v: number): number => (u < 0 || v < 0 || u >= width || v >= height ? 0 : values[u + width * v]!);
  for (let v = 0; v <= height; v++) {
    let [lowerLeft, upperLeft] = [0, 0];
    for (let u = 0; u <= width; u++) {
      const [lowerRight, upperRight] = [at(u, v - 1), at(u, v)];
      if (lowerLeft === lowerRight && upperLeft === upperRight && lowerRight === upperRight) continue;
      const corners = [lowerLeft, lowerRight, upperRight, upperLeft];
      [lowerLeft, upperLeft] = [lowerRight, upperRight];
      for (const label of new Set(corners)) {
        if (!label) continue;
        if (!next.has(label)) next.set(label, new Map());
        cross(corners.map((each) => each === label), u, v, 2 * width + 3, next.get(label)!);
      }
    }
  }
  return new Map([...next].map(([label, steps]) => [label, loopsOf(steps, 2 * width + 3)]));
}

/** Add the lines through one cell between four voxels, told counter-clockwise from the lower left one. */
function cross(inside: boolean[], u: number, v: number, row: number, next: Map<number, number>): void {
  // Points lie at halves of voxels: twice their place, and one more since they start at -1/2.
  const middles = [[0, -1], [1, 0], [0, 1], [-1, 0]].map(([x, y]) => 2 * u + x! + 1 + row * (2 * v + y! + 1));
  for (let side = 0; side < 4; side++) {
    if (inside[side] || !inside[(side + 1) % 4]) continue;
    let end = (side + 1) % 4;
    while (inside[(end + 1) % 4]) end = (end + 1) % 4;
    next.set(middles[side]!, middles[end]!);
  }
}

function loopsOf(next: Map<number, number>, row: number): Loop[] {
  const loops: Loop[] = [];
  for (const start of next.keys()) {
    const loop: Loop = [];
    for (let point = start; next.has(point);) {
      loop.push(((point % row) - 1) / 2, (Math.floor(point / row) - 1) / 2);
      const following = next.get(point)!;
      next.delete(point);
      point = following;
    }
    if (loop.length) loops.push(loop);
  }
  return loops;
}
