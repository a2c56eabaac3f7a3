/** Finding and making elements. Text is always set as text, never parsed as HTML. */

export function byId<T extends HTMLElement>(id: string): T {
  const found = document.getElementById(id);
  if (!found) throw new Error(`index.html has no #${id}`);
  return found as T;
}

export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  properties: Partial<Omit<HTMLElementTagNameMap[K], "style">> = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  Object.assign(element, properties);
  element.append(...children);
  return element;
}

/** A number with so many decimals, and no minus before a zero. */
export const fixed = (value: number, digits: number): string => value.toFixed(digits).replace(/^-(?=[0.]+$)/, "");

/** A clause as a sentence. */
export function sentence(text: string): string {
  return text && `${text[0]!.toUpperCase()}${text.slice(1).replace(/\.$/, "")}.`;
}

/** An entry of a list that opens something: `current` where that is what is open. */
export function link(text: string, current: boolean, use: () => void): HTMLButtonElement {
  const button = make("button", { type: "button", className: "link" }, text);
  if (current) button.setAttribute("aria-current", "true");
  button.addEventListener("click", use);
  return button;
}

/** What deletes an entry of a list; `what` is for screen readers. */
export function trash(what: string, use: () => void): HTMLButtonElement {
  const button = make("button", { type: "button", className: "close", title: "Delete" }, "×");
  button.setAttribute("aria-label", what);
  button.addEventListener("click", use);
  return button;
}

/** Make a list anew: what had the focus has it again, or what stands in its place where it is gone. */
export function refill(list: HTMLElement, items: HTMLElement[]): void {
  const buttons = (): HTMLButtonElement[] => [...list.querySelectorAll<HTMLButtonElement>("button:not([hidden], :disabled)")];
  const told = (button: HTMLElement): string => button.getAttribute("aria-label") ?? button.textContent ?? "";
  const before = buttons();
  const at = before.findIndex((each) => each === document.activeElement);
  list.replaceChildren(...items);
  if (at < 0) return;
  const now = buttons();
  const same = now.filter((each) => told(each) === told(before[at]!));
  (same.includes(now[at]!) || !same.length ? now[Math.min(at, now.length - 1)] : same[0])?.focus();
}

export const quiet = (text: string): HTMLElement => make("span", { className: "quiet" }, text);

export function options(select: HTMLSelectElement, entries: [value: string, text: string][]): void {
  select.replaceChildren(...entries.map(([value, text]) => make("option", { value }, text)));
}

export function press(button: HTMLElement, pressed: boolean): void {
  button.setAttribute("aria-pressed", String(pressed));
}

export function pressed(button: HTMLElement): boolean {
  return button.getAttribute("aria-pressed") === "true";
}

/** Make a button that stays down: `use` is told its new state, which is returned for other callers. */
export function toggle(id: string, use: (on: boolean) => void): (on?: boolean) => void {
  const button = byId<HTMLButtonElement>(id);
  const set = (on = !pressed(button)): void => {
    press(button, on);
    use(on);
  };
  button.addEventListener("click", () => set());
  return set;
}

export function swatch(color: string): HTMLElement {
  const element = make("span", { className: "swatch" });
  element.setAttribute("aria-hidden", "true");
  element.style.backgroundColor = color;
  return element;
}
