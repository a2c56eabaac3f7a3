/** What the pointer does on the image: one tool at a time, looking unless another is chosen. */

import { byId, make } from "./dom";
import { changed } from "./state";

/** A hand is not perfectly still, a finger less so. */
const STILL_PX = 4;
const STILL_FINGER_PX = 12;

const PENS = ["draw", "erase", "fill"];
let current = "look";

/** The tool in hand: "look", or one that was added. */
export const tool = (): string => current;

/** Whether it changes the labels by hand. */
export const penInHand = (): boolean => PENS.includes(current);

export function setTool(next: string): void {
  current = next;
  document.body.dataset.tool = next;
  if (next !== "look") byId("panel").scrollTop = 0; // what belongs to it comes first
  for (const input of byId("tools").querySelectorAll("input")) input.checked = input.value === next;
  changed("tool");
}

/** Take a tool, or put it away. */
export const toggleTool = (value: string): void => setTool(current === value ? "look" : value);

/** Call with each click of the main button that did not drag, once the crosshair is there. */
export function onStillClick(canvas: HTMLElement, use: (event: PointerEvent) => unknown): void {
  let start: [number, number] | null = null;
  canvas.addEventListener("pointerdown", (event) => (start = event.button === 0 && event.isPrimary ? [event.clientX, event.clientY] : null));
  canvas.addEventListener("pointercancel", () => (start = null));
  canvas.addEventListener("pointerup", (event) => {
    const most = event.pointerType === "touch" ? STILL_FINGER_PX : STILL_PX;
    const still = start && Math.hypot(event.clientX - start[0], event.clientY - start[1]) < most;
    if (still) setTimeout(() => use(event));
  });
}

export function addTool(value: string, text: string, title: string): void {
  const input = make("input", { type: "radio", name: "tool", value, checked: value === current });
  input.addEventListener("change", () => setTool(value));
  byId("tools").append(make("label", { className: "choice", title }, input, make("span", {}, text)));
  byId("tools").hidden = byId("tools").children.length < 2;
}

/** Show a tool where there is something to do with it. */
export function offerTool(value: string, on: boolean): void {
  byId("tools").querySelector(`[value="${value}"]`)!.closest("label")!.hidden = !on;
  if (!on && current === value) setTool("look");
}
