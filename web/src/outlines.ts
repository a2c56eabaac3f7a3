/** Closed outlines in a plane: their area, what lies within, and as few corners as draw them; nothing of the page. */

export type Corner = [x: number, y: number];
type Edge = [from: Corner, to: Corner];

const edgesOf = (corners: Corner[]): Edge[] => corners.map((corner, n) => [corner, corners[(n + 1) % corners.length]!]);

/** Where an edge crosses a height between its ends. */
const crossing = ([[x, y], [toX, toY]]: Edge, at: number): number => x + ((at - y) / (toY - y)) * (toX - x);

/** Whether a ray to the side crosses the outline an odd number of times. */
export function inOutline([x, y]: Corner, corners: Corner[]): boolean {
  return edgesOf(corners).filter((edge) => edge[0][1] > y !== edge[1][1] > y && x < crossing(edge, y)).length % 2 === 1;
}

/** The area of what `inOutline` takes, also of an outline that crosses itself: exact, by bands without a corner or crossing. */
export function areaOf(corners: Corner[]): number {
  const edges = edgesOf(corners);
  const heights = [...corners.map(([, y]) => y), ...edges.flatMap((edge, n) => edges.slice(n + 1).flatMap((other) => meeting(edge, other)))].sort((a, b) => a - b);
  return heights.slice(1).reduce((area, top, n) => {
    const [bottom, middle] = [heights[n]!, (heights[n]! + top) / 2];
    const across = edges.filter(([[, a], [, b]]) => a > middle !== b > middle).map((edge) => crossing(edge, middle)).sort((a, b) => a - b);
    return area + (top - bottom) * across.reduce((width, x, at) => width + (at % 2 ? x : -x), 0);
  }, 0);
}

/** At which height two edges cross, if they do. */
function meeting([[ax, ay], [bx, by]]: Edge, [[cx, cy], [dx, dy]]: Edge): number[] {
  const turn = (bx - ax) * (dy - cy) - (by - ay) * (dx - cx);
  const along = ((cx - ax) * (dy - cy) - (cy - ay) * (dx - cx)) / turn;
  const other = ((cx - ax) * (by - ay) - (cy - ay) * (bx - ax)) / turn;
  return along > 0 && along < 1 && other > 0 && other < 1 ? [ay + along * (by - ay)] : [];
}

/** How far a place is from the line between two others. */
export function distanceTo([x, y]: Corner, [[ax, ay], [bx, by]]: Edge): number {
  const length = (bx - ax) ** 2 + (by - ay) ** 2;
  const along = length && Math.min(1, Math.max(0, ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length));
  return Math.hypot(ax + along * (bx - ax) - x, ay + along * (by - ay) - y);
}

/** Which corners of a line are enough for the others to be within a distance of it (Douglas and Peucker). */
export function cornersWithin(line: Corner[], distance: number): number[] {
  const between = (first: number, last: number): number[] => {
    let [farthest, most] = [first, distance];
    for (let n = first + 1; n < last; n++) {
      const off = distanceTo(line[n]!, [line[first]!, line[last]!]);
      if (off > most) [farthest, most] = [n, off];
    }
    return farthest === first ? [] : [...between(first, farthest), farthest, ...between(farthest, last)];
  };
  return line.length < 3 ? [...line.keys()] : [0, ...between(0, line.length - 1), line.length - 1];
}
