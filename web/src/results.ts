/** Downloads of the label map that is shown. */

import * as api from "./api";
import { saveCorrection, unsaved } from "./correcting";
import { byId, make } from "./dom";
import { addressOf } from "./labelmaps";
import { save, stem } from "./files";
import { announce, explain, show } from "./messages";
import { on, state } from "./state";
import type { LabelMap } from "./types";

const section = byId("result-section");

/** What each format is called on its button, and its suffix; the first are the likeliest. */
const FORMATS: [format: string, title: string, suffix: string][] = [
  ["dicom-seg", "DICOM SEG", ".dcm"],
  ["png", "PNG mask", ".png"],
  ["nifti", "NIfTI", ".nii.gz"],
  ["npz", "NPZ", ".npz"],
];

export function connectResults(): void {
  on("labels", () => {
    section.hidden = !state.labels;
    if (state.image) buttons(state.image.info.result_formats);
  });
}

function buttons(possible: string[]): void {
  const made = FORMATS.filter(([format]) => possible.includes(format)).map(([format, title, suffix]) => {
    const button = make("button", { type: "button" }, title);
    button.setAttribute("aria-label", `Download as ${title}`);
    button.addEventListener("click", () => void download(button, format, suffix));
    return button;
  });
  byId("downloads").replaceChildren(make("span", { className: "quiet" }, "Download"), ...made);
}

async function download(button: HTMLButtonElement, format: string, suffix: string): Promise<void> {
  const { shown } = state;
  if (unsaved()) {
    const save = { text: "Save and download", use: () => void saveCorrection().then((well) => void (well && download(button, format, suffix))) };
    const kept = { text: "Download what is saved", use: () => void fetchResult(button, shown!, format, suffix) };
    return show("note", "What was drawn is not saved yet.", "", shown ? [save, kept] : [save]);
  }
  if (shown) await fetchResult(button, shown, format, suffix);
}

async function fetchResult(button: HTMLButtonElement, shown: LabelMap, format: string, suffix: string): Promise<void> {
  button.disabled = true;
  try {
    const response = await api.request(`${addressOf(shown)}/result?format=${format}`);
    save(await response.blob(), named(response) ?? `${stem(state.image!.info.name)}_labels${suffix}`);
    announce("Downloaded.");
  } catch (error) {
    explain(error, "Downloading");
  } finally {
    button.disabled = false;
  }
}

/** The name that the server gives the file. */
function named(response: Response): string | undefined {
  const header = response.headers.get("Content-Disposition") ?? "";
  const encoded = /filename\*=(?:UTF-8|utf-8)''([^;]+)/.exec(header)?.[1];
  return encoded ? decodeURIComponent(encoded) : /filename="?([^";]+)"?/.exec(header)?.[1];
}
