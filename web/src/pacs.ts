/** The PACS that the server was started with: a series fetched from it, a result or a correction stored in it. */

import * as api from "./api";
import { unsaved } from "./correcting";
import { byId, make } from "./dom";
import { addressOf } from "./labelmaps";
import { announce, explain } from "./messages";
import { on, state } from "./state";
import type { LabelMap, PacsSeries } from "./types";

const dialog = byId<HTMLDialogElement>("pacs-dialog");
const found = byId("pacs-found");
const storing = byId("pacs-store");
let stored: LabelMap | null = null;

/** `open` is called with the series that is chosen. */
export function connectPacs(open: (series: PacsSeries) => void): void {
  byId("open-pacs").addEventListener("click", () => dialog.showModal());
  byId("pacs-close").addEventListener("click", () => dialog.close());
  byId("pacs-form").addEventListener("submit", (event) => {
    event.preventDefault();
    void search(open);
  });
  storing.addEventListener("click", () => void store());
  const offer = (): void => {
    // What is stored is what is on the screen.
    byId("pacs-row").hidden = unsaved() || !state.shown || !state.image?.info.from_pacs;
    byId("pacs-given").hidden = state.shown?.kind !== "given";
    if (state.shown !== stored) byId("pacs-stored").textContent = "";
  };
  for (const topic of ["labels", "edit", "versions"] as const) on(topic, offer);
}

async function search(open: (series: PacsSeries) => void): Promise<void> {
  const [patient_id, study_date, modality] = ["pacs-patient", "pacs-date", "pacs-modality"].map(
    (id) => byId<HTMLInputElement>(id).value.trim(),
  ) as [string, string, string];
  found.replaceChildren(make("p", { className: "quiet" }, "Asking…"));
  try {
    const listed = await api.searchPacs({ patient_id, study_date: study_date.replaceAll("-", ""), modality });
    const buttons = listed.map((series) => {
      const button = make("button", { type: "button" }, described(series));
      button.addEventListener("click", () => (dialog.close(), open(series)));
      return make("li", {}, button);
    });
    const told = listed.length ? `${listed.length} series` : "No series of images.";
    found.replaceChildren(make("p", { className: "quiet" }, told), make("ul", { className: "choices" }, ...buttons));
    announce(told);
  } catch (error) {
    found.replaceChildren();
    dialog.close();
    explain(error, "Asking the PACS", () => dialog.showModal());
  }
}

function described({ modality, description, images }: PacsSeries): string {
  return [`${modality} ${description || "(no description)"}`, images === null ? "" : `${images} images`]
    .filter(Boolean)
    .join(", ");
}

async function store(): Promise<void> {
  const { shown } = state;
  if (!shown) return;
  storing.setAttribute("disabled", "");
  try {
    await api.storeInPacs(addressOf(shown));
    if (state.shown !== shown) return;
    stored = shown;
    byId("pacs-stored").textContent = "Segmentation and report are stored beside the series.";
    announce(byId("pacs-stored").textContent!);
  } catch (error) {
    explain(error, "Storing in the PACS", () => void store());
  } finally {
    storing.removeAttribute("disabled");
  }
}
