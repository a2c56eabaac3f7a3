/** The API's client: token, errors, uploads with progress. Nothing else talks to the network. */

import type {
  Bundle,
  ClicksQuestion,
  Comparison,
  DatasetState,
  ImageInfo,
  Job,
  LabelBox,
  LabelMap,
  Offers,
  PacsSeries,
  Series,
  Settings,
  WorklistState,
} from "./types";

const BASE = new URL("api/v1/", document.baseURI).href;
const KEY = "transunet-token";

/** What the API answered, or why it could not. `status` 0: no answer at all. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly remedy = "",
    readonly series: Series[] = [],
    /** The correction that came first. */
    readonly correction: LabelMap | null = null,
  ) {
    super(message);
  }

  get unreachable(): boolean {
    return this.status === 0;
  }
}

/** Take `#token=...` out of the address bar, where a picture of the screen would show it. */
export function adoptToken(): void {
  const found = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!found) return;
  sessionStorage.setItem(KEY, found);
  history.replaceState(null, "", location.pathname + location.search);
}

export function setToken(token: string): void {
  sessionStorage.setItem(KEY, token.trim());
}

export function headers(): Record<string, string> {
  const token = sessionStorage.getItem(KEY);
  return token ? { Authorization: `Bearer ${token}` } : {};
}

function unreachable(): ApiError {
  return new ApiError(0, "unreachable", "The server does not answer.", "Is `transunet serve` still running?");
}

function errorFrom(status: number, text: string): ApiError {
  try {
    const { code, message, remedy, series, correction } = JSON.parse(text).error;
    return new ApiError(status, String(code), String(message), remedy ? String(remedy) : "", series ?? [], correction ?? null);
  } catch {
    return new ApiError(status, `http_${status}`, `The server answered ${status}.`, text.slice(0, 200));
  }
}

export async function request(path: string, init: RequestInit = {}): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(BASE + path, { ...init, headers: { ...headers(), ...init.headers } });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw unreachable();
  }
  if (response.ok) return response;
  throw errorFrom(response.status, await response.text());
}

async function json<T>(path: string, init?: RequestInit): Promise<T> {
  return (await (await request(path, init)).json()) as T;
}

function post<T>(path: string, body: unknown, signal?: AbortSignal): Promise<T> {
  const headers = { "Content-Type": "application/json" };
  return json<T>(path, { method: "POST", headers, body: JSON.stringify(body), signal });
}

/** POST a form with progress, which fetch does not tell. */
function upload<T>(path: string, form: FormData, progress?: (fraction: number) => void): Promise<T> {
  return new Promise((resolve, reject) => {
    const call = new XMLHttpRequest();
    call.open("POST", BASE + path);
    for (const [name, value] of Object.entries(headers())) call.setRequestHeader(name, value);
    call.upload.onprogress = (event) => progress?.(event.loaded / event.total);
    call.onerror = () => reject(unreachable());
    call.onload = () => {
      if (call.status >= 200 && call.status < 300) resolve(JSON.parse(call.responseText) as T);
      else reject(errorFrom(call.status, call.responseText));
    };
    call.send(form);
  });
}

/** A server may hang up in the middle of an upload that it refuses; then it still answers others. */
async function uploadExplained<T>(path: string, form: FormData, progress?: (fraction: number) => void): Promise<T> {
  try {
    return await upload<T>(path, form, progress);
  } catch (error) {
    if (!(error instanceof ApiError) || !error.unreachable) throw error;
    await bundles();
    const remedy = "The files are probably larger than the server allows (`transunet serve --max-upload`).";
    throw new ApiError(413, "upload_refused", "The server ended the upload before it was complete.", remedy);
  }
}

export const bundles = (): Promise<Bundle[]> => json("bundles");
export const jobs = (): Promise<Job[]> => json("jobs");
export const job = (id: string): Promise<Job> => json(`jobs/${id}`);
export const cancel = (id: string): Promise<Job> => json(`jobs/${id}/cancel`, { method: "POST" });
export const images = (): Promise<ImageInfo[]> => json("images");
export const imageInfo = (id: string): Promise<ImageInfo> => json(`images/${id}`);
export const deleteImage = (id: string): Promise<Response> => request(`images/${id}`, { method: "DELETE" });
export const deleteJob = (id: string): Promise<Response> => request(`jobs/${id}`, { method: "DELETE" });

/** Why files would not be taken, before they are sent for nothing. */
export async function tooMuch(files: File[]): Promise<ApiError | null> {
  const { limits } = await offers();
  const bytes = files.reduce((sum, { size }) => sum + size, 0);
  const mebibytes = (count: number): string => `${Math.ceil(count / 2 ** 20)} MiB`;
  if (bytes > limits.upload_bytes) {
    const found = `The upload has ${mebibytes(bytes)}; the server takes ${mebibytes(limits.upload_bytes)}.`;
    return new ApiError(413, "too_large", found, "Send smaller files, or start the server with a larger --max-upload.");
  }
  if (files.length > limits.files) {
    const found = `These are ${files.length} files; the server takes ${limits.files}.`;
    return new ApiError(413, "too_large", found, "Choose the folder of one series, or a zip archive of it.");
  }
  return null;
}

/** What clicks change of labels. */
export const sendClicks = (image: string, question: ClicksQuestion): Promise<LabelBox> => post(`images/${image}/clicks`, question);

export function submit(image: string, bundle: string, settings: Settings): Promise<Job> {
  return post("jobs", { image, bundle, ...settings });
}

export async function blob(path: string): Promise<Blob> {
  return (await request(path)).blob();
}

/** @param series the DICOM series that is meant, if the files are several: its number. */
export function sendImage(files: File[], progress: (fraction: number) => void, series = ""): Promise<ImageInfo> {
  const form = new FormData();
  if (series) form.append("series", series);
  for (const file of files) form.append("files", file, file.name);
  return uploadExplained("images", form, progress);
}

/** What the server can do beside segmenting what it is sent. */
export const offers = (): Promise<Offers> => json("health");
export const takeSample = (): Promise<ImageInfo> => post("sample", {});
export const searchPacs = (query: Record<string, string>): Promise<PacsSeries[]> => post("pacs/series", query);
/** @param labels the address of a label map. */
export const storeInPacs = (labels: string): Promise<unknown> => post(`${labels}/pacs`, {});

/** @param part of a series that is several volumes, the one that is meant: its number. */
export function fetchSeries({ study, series }: PacsSeries, part = ""): Promise<ImageInfo> {
  return post("pacs/images", { study, series, ...(part && { part }) });
}

export const dataset = (image: string): Promise<DatasetState> => json(`images/${image}/dataset`);
export const addToDataset = (image: string, labels: string): Promise<DatasetState> =>
  post(`images/${image}/dataset`, { labels });
export const worklist = (): Promise<WorklistState> => json("worklist");
export const openListed = (place: number): Promise<ImageInfo> => post(`worklist/${place}/image`, {});

export const labelMaps = (image: string): Promise<LabelMap[]> => json(`images/${image}/labels`);

export const labelMap = (id: string): Promise<LabelMap> => json(`labels/${id}`);
export const deleteLabelMap = (id: string): Promise<Response> => request(`labels/${id}`, { method: "DELETE" });

export function sendCorrection(image: string, file: Blob, fields: Record<string, string>): Promise<LabelMap> {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  form.append("file", file, "labels.nii.gz");
  return upload(`images/${image}/corrections`, form);
}

/** @param bundle whose structures the label map has, if that is known. */
export function sendLabels(image: string, files: File[], bundle?: string): Promise<LabelMap> {
  const form = new FormData();
  if (bundle) form.append("bundle", bundle);
  for (const file of files) form.append("file", file, file.name);
  return uploadExplained(`images/${image}/labels`, form);
}

/** How one label map of an image agrees with another, which counts as the reference. */
export function comparison(image: string, of: string, reference: string): Promise<Comparison> {
  return json(`images/${image}/comparison?of=${of}&with=${reference}`);
}

export interface AttentionQuery {
  bundle: string;
  voxel: [number, number, number];
  layer: number | "rollout";
  head: number | "mean";
}

export async function attention(image: string, query: AttentionQuery, signal: AbortSignal): Promise<Blob> {
  const headers = { "Content-Type": "application/json" };
  const init = { method: "POST", headers, body: JSON.stringify(query), signal };
  return (await request(`images/${image}/attention`, init)).blob();
}
