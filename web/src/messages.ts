/** What went wrong or was done, to be read and heard. */

import { ApiError, bundles, setToken } from "./api";
import { byId, make } from "./dom";

const status = byId("status");
const list = byId("messages");
const banner = byId("offline");

/** How long a note stays; longer while somebody points at it. */
const NOTE_MS = 12_000;

/** Say something to screen readers, without moving anything. */
export function announce(text: string): void {
  status.textContent = text;
}

export interface Button {
  text: string;
  use: () => void;
}

/** Show one message over the image: a note for a while, an error until it is closed or something else is done. */
export function show(kind: "error" | "note", text: string, remedy = "", buttons: Button[] = []): void {
  if (kind === "note" && list.querySelector(".error")) return announce(text);
  const close = make("button", { type: "button", className: "close", title: "Dismiss" });
  close.append(make("span", { textContent: "×", ariaHidden: "true" }), make("span", { className: "hidden-text", textContent: "Dismiss" }));
  const box = make("div", { className: `message ${kind}` }, make("p", {}, make("strong", {}, text), remedy && " ", remedy));
  box.setAttribute("role", kind === "error" ? "alert" : "status");
  for (const { text, use } of buttons) {
    const action = make("button", { type: "button" }, text);
    action.addEventListener("click", () => (box.remove(), use()));
    box.append(action);
  }
  close.addEventListener("click", () => box.remove());
  box.append(close);
  list.replaceChildren(box);
  const leave = (): void => void (box.matches(":hover, :focus-within") ? setTimeout(leave, NOTE_MS) : box.remove());
  if (kind === "note") setTimeout(leave, NOTE_MS);
}

export function clearMessages(): void {
  list.replaceChildren();
}

/** Explain `error` at the place for errors; a missing token is asked for, a lost server waited for. */
export function explain(error: unknown, doing: string, again?: () => void): void {
  if (!(error instanceof ApiError)) {
    console.error(error);
    show("error", `${doing} failed.`, error instanceof Error ? error.message : String(error));
  } else if (error.unreachable) {
    offline(again);
  } else if (error.status === 401) {
    askToken(error, again);
  } else {
    const buttons = again && error.status === 429 ? [{ text: "Try again", use: again }] : [];
    show("error", error.message, error.remedy, buttons);
  }
}

let waiting: (() => void)[] = [];
let timer = 0;
let tries = 0;

/** Show that the server is gone, and go on with `again` when it is back. */
export function offline(again?: () => void): void {
  if (again && !waiting.includes(again)) waiting.push(again);
  if (!banner.hidden) return;
  banner.hidden = false;
  tries = 0;
  schedule();
}

function schedule(): void {
  const seconds = Math.min(2 ** tries++, 15);
  byId("offline-detail").textContent = `Trying again in ${seconds} s…`;
  clearTimeout(timer);
  timer = window.setTimeout(() => void retry(), seconds * 1000);
}

async function retry(): Promise<void> {
  clearTimeout(timer);
  try {
    await bundles();
  } catch (error) {
    if (error instanceof ApiError && error.unreachable) return schedule();
  }
  online();
}

/** The server answers again. */
export function online(): void {
  if (banner.hidden) return;
  banner.hidden = true;
  clearTimeout(timer);
  announce("The server answers again.");
  const calls = waiting;
  waiting = [];
  for (const call of calls) call();
}

const dialog = byId<HTMLDialogElement>("token-dialog");
const afterToken: (() => void)[] = [];

function askToken(error: ApiError, again?: () => void): void {
  byId("token-reason").textContent = [error.message, error.remedy].filter(Boolean).join(" ");
  if (again) afterToken.push(again);
  if (!dialog.open) dialog.showModal();
}

export function connectMessages(): void {
  const done = (event: Event): void => {
    const target = event.target as Element;
    if (!list.contains(target) && target.closest("button, select, input")) clearMessages();
  };
  document.addEventListener("click", done, { capture: true });
  byId("offline-retry").addEventListener("click", () => void retry());
  window.addEventListener("online", () => void retry());
  dialog.addEventListener("close", () => {
    const field = byId<HTMLInputElement>("token");
    if (!field.value) return;
    setToken(field.value);
    field.value = "";
    for (const call of afterToken.splice(0)) call();
  });
}
