/** Which side is which: letters over the planes that can be read on any image, unlike NiiVue's own. */

import { byId, make } from "./dom";
import type { Place } from "./viewer";

type Plane = Exclude<Place["plane"], "render">;
type Side = "top" | "bottom" | "left" | "right";

/** NiiVue draws every image along right, anterior, superior, a sagittal plane with the front to the right. */
const SIDES: Record<Plane, Record<Side, string>> = {
  axial: { top: "A", bottom: "P", left: "L", right: "R" },
  coronal: { top: "S", bottom: "I", left: "L", right: "R" },
  sagittal: { top: "S", bottom: "I", left: "P", right: "A" },
};
/** @param radiological the patient's right is on the left. */
export function showLetters(places: Place[], radiological: boolean): void {
  byId("letters").replaceChildren(
    ...places.flatMap((place) => [
      ...(places.length > 1 ? [frame(place)] : []),
      ...(place.plane === "render" ? [] : letters(place.plane, radiological).map(([side, letter]) => placed(side, letter, place))),
    ]),
  );
}

function letters(plane: Plane, radiological: boolean): [Side, string][] {
  const sides = SIDES[plane];
  const turned = !radiological || plane === "sagittal" ? sides : { ...sides, left: sides.right, right: sides.left };
  return Object.entries(turned) as [Side, string][];
}

/** A letter at the middle of a side of a plane. */
function placed(side: Side, letter: string, { left, top, width, height }: Place): HTMLElement {
  const made = make("span", { className: side, textContent: letter });
  const across = { top: 0.5, bottom: 0.5, left: 0, right: 1 }[side];
  const down = { top: 0, bottom: 1, left: 0.5, right: 0.5 }[side];
  made.style.left = percent(left + across * width);
  made.style.top = percent(top + down * height);
  return made;
}

function frame({ left, top, width, height }: Place): HTMLElement {
  const frame = make("i");
  Object.assign(frame.style, { left: percent(left), top: percent(top), width: percent(width), height: percent(height) });
  return frame;
}

const percent = (fraction: number): string => `${100 * fraction}%`;
