/** The keyboard: every shortcut, from which the help is made too. */

import { byId, make } from "./dom";

export interface Shortcut {
  /** As events name them, with "Ctrl+" before what is pressed with Ctrl or Command. */
  keys: string[];
  /** More of them, which the help does not list. */
  hidden?: string[];
  what: string;
  /** False where it has nothing to do now: a key may do something else with another tool. */
  use: (key: string) => unknown;
  /** Only while the image has the focus. */
  onImage?: boolean;
}

/** Shortcuts by what one is at. */
export type Shortcuts = Record<string, Shortcut[]>;

const MOUSE: [string, string][] = [
  ["Click, drag", "Crosshair; turns the 3D view"],
  ["Wheel", "Slices; zooms the 3D view"],
  ["Right drag", "Window and level"],
  ["Double click", "One plane large, and back"],
  ["Two fingers", "Zoom"],
  ["Double tap", "Reset the window"],
];
const NAMES: Record<string, string> = { ArrowUp: "↑", ArrowDown: "↓", ArrowLeft: "←", ArrowRight: "→", " ": "Space", PageUp: "Page Up", PageDown: "Page Down" };

/** Help is long: it opens at its top, with Escape or Close to leave. */
const help = byId<HTMLDialogElement>("help");
const enabled = byId<HTMLInputElement>("keys-on");

export function connectKeys(shortcuts: Shortcuts, canvas: HTMLElement): void {
  const open = (): void => help.showModal();
  byId("open-help").addEventListener("click", open);
  const all: Shortcut[] = [...Object.values(shortcuts).flat(), { keys: ["?"], what: "This help", use: open }];
  list(shortcuts);
  // Capturing: NiiVue has keys of its own on the image.
  document.addEventListener("keydown", (event) => pressed(event, all, canvas), { capture: true });
}

function pressed(event: KeyboardEvent, shortcuts: Shortcut[], canvas: HTMLElement): void {
  if (event.altKey || document.querySelector("dialog[open]")) return;
  const control = event.ctrlKey || event.metaKey;
  const key = control ? `Ctrl+${event.key}` : event.key;
  const onImage = document.activeElement === canvas;
  const anywhere = !typing(event.target) && (control || enabled.checked);
  const used = shortcuts.some((each) => [...each.keys, ...(each.hidden ?? [])].includes(key) && (each.onImage ? onImage : anywhere) && each.use(key) !== false);
  if (used) event.preventDefault();
}

/** Fields, and lists in which letters choose, keep their keys. */
export function typing(target: EventTarget | null): boolean {
  return target instanceof HTMLElement && target.matches("select, textarea, input:not([type=checkbox], [type=radio], [type=range])");
}

function list(shortcuts: Shortcuts): void {
  const line = (how: Node[], what: string): HTMLElement => make("div", {}, make("dt", {}, ...how), make("dd", {}, what));
  const group = (title: string, lines: HTMLElement[]): HTMLElement => make("section", {}, make("h3", {}, title), make("dl", {}, ...lines));
  const keyed = Object.entries(shortcuts).map(([title, each]) =>
    group(title, each.map(({ keys, what }) => line(keys.map((key) => make("kbd", {}, nameOf(key))), what))),
  );
  const mouse = group("Mouse and touch", MOUSE.map(([how, what]) => line([make("span", {}, how)], what)));
  byId("shortcuts").replaceChildren(...keyed, mouse);
}

/** As the key is labelled. */
function nameOf(key: string): string {
  if (key.startsWith("Ctrl+")) return `Ctrl ${nameOf(key.slice(5))}`;
  if (/^[A-Z]$/.test(key)) return `Shift ${key}`;
  return NAMES[key] ?? (key.length === 1 ? key.toUpperCase() : key);
}
