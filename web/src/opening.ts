/** Opening an image: sending it, reading what the server makes of it, drawing it. */

import * as api from "./api";
import { ApiError } from "./api";
import { mayLeave } from "./correcting";
import { byId, make } from "./dom";
import { withoutClashes } from "./files";
import { fetchLabels } from "./labelmaps";
import { announce, clearMessages, explain, show } from "./messages";
import { readNifti } from "./nifti";
import { unwatch } from "./segmenting";
import { changed, state } from "./state";
import type { ImageInfo, LabelMap, PacsSeries, Series } from "./types";
import type { Viewer } from "./viewer";
import { firstWindow, measure } from "./windowing";

const busy = byId("busy");
let opening = 0;

/** Send files to the server and show the image that they are. */
export function openFiles(files: File[], viewer: Viewer): Promise<boolean> {
  const text = files.length > 1 ? `Sending ${files.length} files…` : `Sending ${files[0]!.name}…`;
  return openImage(text, "Opening the image", viewer, async (series, told) => {
    const refused = await api.tooMuch(files);
    if (refused) throw refused;
    return api.sendImage(withoutClashes(files), told, series);
  });
}

/** Let the server fetch a series from the PACS, and show it. */
export function openSeries(wanted: PacsSeries, viewer: Viewer): Promise<boolean> {
  return openImage("Fetching the series…", "Fetching the series", viewer, (part) => api.fetchSeries(wanted, part));
}

/** Let the server open an image of its worklist, and show it; return whether it is shown. */
export function openListed(place: number, viewer: Viewer): Promise<boolean> {
  return openImage("Fetching the image…", "Opening the image", viewer, () => api.openListed(place));
}

/** Show the image that `get` gets: of several series in it, the one of the number that it is told. */
async function openImage(
  text: string,
  doing: string,
  viewer: Viewer,
  get: (series: string, told: (fraction: number) => void) => Promise<ImageInfo>,
  series = "",
): Promise<boolean> {
  if (!(await mayLeave())) return false;
  const mine = begin(text);
  try {
    const info = await get(series, (fraction) => void (mine === opening && progress(fraction)));
    if (mine !== opening) return false;
    await showImage(info, viewer, mine);
    if (warnings(info).length) show("note", warnings(info).join("\n"));
    return mine === opening;
  } catch (error) {
    if (mine === opening && !offerSeries(error, (number) => void openImage(text, doing, viewer, get, number)))
      explain(error, doing, () => void openImage(text, doing, viewer, get, series));
    return false;
  } finally {
    if (mine === opening) busy.hidden = true;
  }
}

/** Let one DICOM series be chosen where the server found several; return whether it did. */
function offerSeries(error: unknown, open: (number: string) => void): boolean {
  if (!(error instanceof ApiError) || error.code !== "several_series") return false;
  const buttons = error.series.map((series) => ({ text: described(series), use: () => open(String(series.number)) }));
  show("error", `These files are ${buttons.length} series.`, "Choose one:", buttons);
  return true;
}

function described({ number, modality, description, slices, part }: Series): string {
  const details = [description || "(no description)", `${slices} slices`, part].filter(Boolean).join(", ");
  return `${number}. ${modality} ${details}`;
}

/** Take the server's sample image and show it. */
export function openSample(viewer: Viewer): Promise<boolean> {
  return openImage("Fetching the sample…", "Opening the sample", viewer, () => api.takeSample());
}

/** Show an image that the server has; return whether it is the one that is open then. */
export async function openKept(id: string, viewer: Viewer): Promise<boolean> {
  if (!(await mayLeave())) return false;
  const mine = begin("Fetching the image…");
  try {
    const info = await api.imageInfo(id);
    await showImage(info, viewer, mine);
    return mine === opening;
  } catch (error) {
    if (mine === opening) explain(error, "Opening the image");
    return false;
  } finally {
    if (mine === opening) busy.hidden = true;
  }
}

/** Pictures are told in pixels here, so that they have no size in millimetres is no news. */
function warnings({ kind, warnings, obstacle }: ImageInfo): string[] {
  if (kind === "picture") return obstacle ? [obstacle] : [];
  return warnings;
}

function begin(text: string): number {
  clearMessages();
  busy.hidden = false;
  byId("busy-text").textContent = text;
  byId("busy-progress").removeAttribute("value");
  announce(text);
  return ++opening;
}

function progress(fraction: number): void {
  const bar = byId<HTMLProgressElement>("busy-progress");
  if (fraction < 1) bar.value = fraction;
  else {
    bar.removeAttribute("value");
    byId("busy-text").textContent = "Reading the image…";
  }
}

async function showImage(info: ImageInfo, viewer: Viewer, mine: number): Promise<void> {
  const voxels = await readNifti(await api.blob(`images/${info.id}/volume.nii.gz`));
  if (mine !== opening) return;
  unwatch();
  Object.assign(state, { image: { info, voxels }, job: null, labels: null, shown: null });
  measure();
  await viewer.showImage(voxels, info.kind === "picture", firstWindow());
  byId("start").hidden = true;
  document.body.classList.remove("empty");
  document.body.classList.toggle("picture", info.kind === "picture");
  byId("case-name").textContent = titleOf(info);
  byId("case-study").textContent = studyOf(info);
  byId("case-facts").textContent = facts(info);
  byId("image-doubts").hidden = !warnings(info).length;
  byId("image-doubts").replaceChildren(...warnings(info).map((text) => make("p", {}, text)));
  for (const topic of ["job", "labels", "image"] as const) changed(topic);
  announce(`${titleOf(info)} is open.`);
}

/** Whom an image shows, where its DICOM header tells, else what its file is called. */
export function titleOf({ name, header }: ImageInfo): string {
  const patient = [header?.patient_name, header?.patient_id && `ID ${header.patient_id}`];
  return patient.filter(Boolean).join(" · ") || name;
}

export function studyOf({ header }: ImageInfo): string {
  const told = header && [header.modality, header.study_date, header.study, header.series];
  return told?.filter(Boolean).join(" · ") ?? "";
}

function facts({ shape, spacing_mm, orientation, kind, channels }: ImageInfo): string {
  const several = channels > 1 ? ` · ${channels} channels` : "";
  if (kind === "picture") return `${shape[1]} × ${shape[0]} pixels${several}`;
  const spacing = spacing_mm.map((value) => Number(value.toPrecision(3))).join(" × ");
  return `${shape.join(" × ")} · ${spacing} mm · ${orientation}${several}`;
}

/** Fetch a label map of the image that is open and draw it. */
export async function showMap(map: LabelMap, viewer: Viewer): Promise<void> {
  const image = state.image;
  try {
    const labels = await fetchLabels(map);
    if (state.image !== image || !(await mayLeave())) return;
    [state.labels, state.shown] = [labels, map];
    viewer.showLabels(labels, map.structures);
    changed("labels");
  } catch (error) {
    explain(error, "Fetching the labels", () => void showMap(map, viewer));
  }
}
