/** The keyboard: every shortcut once, from which the help is made too. */

import { byId, make } from "./dom";

export interface Shortcut {
  keys: string[];
  what: string;
  use: () => void;
  /** Only while the image has the focus. */
  onImage?: boolean;
}

const MOUSE: [string, string][] = [
  ["Click, drag", "Move the crosshair; in the 3D view, turn it"],
  ["Wheel", "Scroll slices; in the 3D view, zoom"],
  ["Right drag", "Window and level"],
  ["Double click", "One plane large, and back"],
  ["Two fingers", "Zoom; double tap resets the window"],
];
const NAMES: Record<string, string> = { ArrowUp: "↑", ArrowDown: "↓", ArrowLeft: "←", ArrowRight: "→", " ": "Space" };

/** Help is long: it opens at its top, with Escape or Close to leave. */
const help = byId<HTMLDialogElement>("help");
const enabled = byId<HTMLInputElement>("keys-on");

export function connectKeys(shortcuts: Shortcut[], canvas: HTMLElement): void {
  byId("open-help").addEventListener("click", () => help.showModal());
  const all = [...shortcuts, { keys: ["?"], what: "This help", use: () => help.showModal() }];
  list(all);
  // Capturing: NiiVue has keys of its own on the image.
  document.addEventListener("keydown", (event) => pressed(event, all, canvas), { capture: true });
}

function pressed(event: KeyboardEvent, shortcuts: Shortcut[], canvas: HTMLElement): void {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const onImage = document.activeElement === canvas;
  const found = shortcuts.find((each) => each.keys.includes(event.key) && (onImage || !each.onImage));
  if (!found || (!found.onImage && (typing(event.target) || !enabled.checked))) return;
  event.preventDefault();
  found.use();
}

/** Fields, and lists in which letters choose, keep their keys. */
export function typing(target: EventTarget | null): boolean {
  return target instanceof HTMLElement && target.matches("select, textarea, input:not([type=checkbox], [type=radio], [type=range])");
}

function list(shortcuts: Shortcut[]): void {
  const keyed = shortcuts.map(({ keys, what }): [Node[], string] => [keys.map((key) => make("kbd", {}, NAMES[key] ?? key)), what]);
  const mouse = MOUSE.map(([how, what]): [Node[], string] => [[make("span", {}, how)], what]);
  const items = [...keyed, ...mouse].map(([how, what]) => make("div", {}, make("dt", {}, ...how), make("dd", {}, what)));
  byId("shortcuts").replaceChildren(...items);
}
