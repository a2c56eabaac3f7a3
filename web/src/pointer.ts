/** What the pointer does on the image: one tool at a time, looking unless another is chosen. */

import { byId, make } from "./dom";
import { changed } from "./state";

let current = "look";

/** The tool in hand: "look", or one that was added. */
export const tool = (): string => current;

export function setTool(next: string): void {
  current = next;
  for (const input of byId("tools").querySelectorAll("input")) input.checked = input.value === next;
  changed("tool");
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
