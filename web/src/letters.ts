/** Which side is which: letters over the planes that can be read on any image, unlike NiiVue's own. */

import { byId, make } from "./dom";
import type { View } from "./viewer";

type Plane = "axial" | "coronal" | "sagittal";
type Side = "top" | "bottom" | "left" | "right";

/** NiiVue draws every image along right, anterior, superior, a sagittal plane with the front to the right. */
const SIDES: Record<Plane, Record<Side, string>> = {
  axial: { top: "A", bottom: "P", left: "L", right: "R" },
  coronal: { top: "S", bottom: "I", left: "L", right: "R" },
  sagittal: { top: "S", bottom: "I", left: "P", right: "A" },
};
/** Left and top of each plane's quarter, in percent. */
const QUARTERS: Record<Plane, [number, number]> = { axial: [0, 0], coronal: [50, 0], sagittal: [0, 50] };
const PLANES: Plane[] = ["axial", "coronal", "sagittal"];

/** @param radiological the patient's right is on the left. */
export function showLetters(view: View | null, radiological: boolean): void {
  const shown = view === "all" ? PLANES : PLANES.filter((plane) => plane === view);
  const size = view === "all" ? 50 : 100;
  byId("letters").classList.toggle("quarters", view === "all");
  byId("letters").replaceChildren(
    ...shown.flatMap((plane) => {
      const [x, y] = view === "all" ? QUARTERS[plane] : [0, 0];
      return letters(plane, radiological).map(([side, letter]) => placed(side, letter, x, y, size));
    }),
  );
}

function letters(plane: Plane, radiological: boolean): [Side, string][] {
  const sides = SIDES[plane];
  const turned = !radiological || plane === "sagittal" ? sides : { ...sides, left: sides.right, right: sides.left };
  return Object.entries(turned) as [Side, string][];
}

/** A letter at the middle of a side of the square that starts at `x`, `y`; all in percent. */
function placed(side: Side, letter: string, x: number, y: number, size: number): HTMLElement {
  const made = make("span", { className: side, textContent: letter });
  const across = { top: 0.5, bottom: 0.5, left: 0, right: 1 }[side];
  const down = { top: 0, bottom: 1, left: 0.5, right: 0.5 }[side];
  made.style.left = `${x + across * size}%`;
  made.style.top = `${y + down * size}%`;
  return made;
}
