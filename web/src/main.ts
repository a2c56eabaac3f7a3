/** The page of `transunet serve`: joins the parts. */

import * as api from "./api";
import { askHere, attentionOn, connectAttention, toggleAttention } from "./attention";
import { addLabels, blink, connectComparing } from "./comparing";
import { connectCorrecting, saveCorrection, unsaved } from "./correcting";
import { byId, make, options, pressed, toggle } from "./dom";
import { clickHere, connectClicks, takeClicks } from "./clicks";
import { connectDoubt, toggleDoubt } from "./doubt";
import { chooser, takeDrops } from "./files";
import { connectKeys, type Shortcuts } from "./keys";
import { connectLearning, goToNext, goToPrevious } from "./learning";
import { showLetters } from "./letters";
import { connectLabelMaps, labelMapsOf, mapOfJob } from "./labelmaps";
import { connectMapList } from "./map_list";
import { announce, connectMessages, explain, show } from "./messages";
import { connectMeasuring, measureAtCrosshair, nextMeasuring, redoMeasured, removeSelected, undoMeasured } from "./measuring";
import type { Vector } from "./nifti";
import { openFiles, openKept, openListed, openSample, openSeries, showMap } from "./opening";
import { connectPacs } from "./pacs";
import { connectPen, CORRECTING } from "./pen";
import { addTool, onStillClick, setTool } from "./pointer";
import { axis, connectPosition, movedTo, scroll, setPlane } from "./position";
import { connectRecent, refresh } from "./recent";
import { connectResults } from "./results";
import { chooseBundle, connectSegmenting, segment, unwatch, watch } from "./segmenting";
import { savePicture } from "./snapshot";
import { changed, on, state } from "./state";
import { changeOpacity, connectStructures, toggleLabels } from "./structures";
import type { Job, LabelMap } from "./types";
import { AXIS_OF, type View, Viewer } from "./viewer";
import { connectVolumes } from "./volumes";
import { connectWindow, firstWindow, measure, nextPreset, showWindow } from "./windowing";

const VIEWS: [view: View, text: string, title: string][] = [
  ["all", "All", "Three planes and 3D (1)"],
  ["axial", "Axial", "Axial (2)"],
  ["coronal", "Coronal", "Coronal (3)"],
  ["sagittal", "Sagittal", "Sagittal (4)"],
  ["render", "3D", "3D (5)"],
];
const PLANE_VIEWS: View[] = ["sagittal", "coronal", "axial"];

const canvas = byId<HTMLCanvasElement>("canvas");
let clicked = NaN;
const viewer = new Viewer(
  canvas,
  byId<HTMLCanvasElement>("overlay"),
  (mm, plane) => ((clicked = plane), movedTo(viewer, mm, plane)),
  () => showWindow(viewer),
);
let view: View = "all";

function setView(next: View): void {
  view = state.image?.info.kind === "picture" ? "axial" : next;
  viewer.setView(view);
  letters();
  const along = PLANE_VIEWS.indexOf(view);
  if (along >= 0) setPlane(viewer, along);
  for (const input of byId("views").querySelectorAll("input")) input.checked = input.value === view;
}

function makeViews(): void {
  for (const [value, text, title] of VIEWS) {
    const input = make("input", { type: "radio", name: "view", value, checked: value === "all" });
    input.addEventListener("change", () => setView(value));
    byId("views").append(make("label", { className: "choice", title }, input, make("span", {}, text)));
  }
}

const toggles = {
  crosshair: toggle("toggle-crosshair", (on) => viewer.setCrosshair(on)),
  smooth: toggle("toggle-smooth", (on) => viewer.setSmooth(on)),
  radiological: toggle("toggle-radiological", (on) => (viewer.setRadiological(on), letters())),
};

function letters(): void {
  const volume = state.image?.info.kind === "volume";
  showLetters(volume ? viewer.layout() : [], pressed(byId("toggle-radiological")));
}

function reset(): void {
  viewer.resetView();
  viewer.window = firstWindow();
  showWindow(viewer);
}

const finished = (job: Job): void => void showMap(mapOfJob(job), viewer).then(() => announce("Segmentation finished."));

async function reopen(job: Job): Promise<void> {
  if (!(await openKept(job.image, viewer))) return;
  chooseBundle(job.bundle);
  await watch(job, finished);
}

/** Open an image with a label map that was drawn on it. */
async function openMap(image: string, map: LabelMap): Promise<void> {
  if (await openKept(image, viewer)) await showMap(map, viewer);
}

/** Open an image of the worklist, with its latest correction, else its latest result or a new one. */
async function visit(place: number): Promise<boolean> {
  if (!(await openListed(place, viewer))) return false;
  const image = state.image!.info.id;
  const drawn = (await labelMapsOf(image)).findLast(({ kind }) => kind === "correction");
  if (drawn) return await showMap(drawn, viewer), true;
  const job = (await api.jobs()).findLast((each) => each.image === image && !["failed", "cancelled"].includes(each.status));
  void (job ? watch(job, finished) : segment(finished));
  return true;
}

/** A job was deleted: what is open of it is closed, its image stays. */
function removed(job: Job): void {
  if (state.job?.id === job.id) {
    unwatch();
    state.job = null;
    changed("job");
  }
  if (state.shown?.id === job.id) {
    state.labels = state.shown = null;
    viewer.showLabels(null, []);
    changed("labels");
  } else if (state.image?.info.id === job.image) changed("versions");
}

function connectFrames(): void {
  const frame = byId<HTMLSelectElement>("frame");
  frame.addEventListener("change", () => {
    viewer.setFrame(Number(frame.value));
    measure(Number(frame.value));
    viewer.window = firstWindow();
    showWindow(viewer);
  });
  on("image", () => {
    const { info, voxels } = state.image!;
    const several = info.kind === "volume" && voxels.channels > 1;
    byId("frame-group").hidden = !several;
    byId("window-group").hidden = info.kind === "picture" && voxels.channels === 3;
    options(frame, Array.from({ length: voxels.channels }, (_, n) => [String(n), String(n + 1)]));
  });
}

/** Move the crosshair within the plane that is scrolled through, as the screen shows it. */
function step(across: number, up: number): void {
  const [horizontal, vertical] = [0, 1, 2].filter((each) => each !== axis()) as [number, number];
  const mirrored = horizontal === 0 && state.image?.info.kind === "volume" && pressed(byId("toggle-radiological"));
  const shift: Vector = [0, 0, 0];
  shift[horizontal] = mirrored ? -across : across;
  shift[vertical] = up;
  viewer.move(...shift);
}

/** Along the screen, by the key. */
const STEPS: Record<string, [across: number, up: number]> = { ArrowUp: [0, 1], ArrowDown: [0, -1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };

const SHORTCUTS: Shortcuts = {
  "Open and segment": [
    { keys: ["o"], what: "Open files", use: openDialog },
    { keys: ["s"], what: "Segment", use: () => void segment(finished) },
    { keys: ["j", "k"], what: "Worklist: next, previous", use: (key) => (key === "j" ? goToNext() : goToPrevious()) },
  ],
  Look: [
    { keys: ["Escape"], what: "Put the tool away", use: () => setTool("look") },
    { keys: ["1"], what: "Three planes and 3D", use: () => setView("all") },
    { keys: ["2", "3", "4"], what: "Axial, coronal, sagittal", use: (key) => setView(({ 2: "axial", 3: "coronal", 4: "sagittal" } as const)[key as "2" | "3" | "4"]) },
    { keys: ["5"], what: "3D", use: () => setView("render") },
    { keys: ["PageUp", "."], what: "Next slice", use: () => scroll(viewer, 1) },
    { keys: ["PageDown", ","], what: "Previous slice", use: () => scroll(viewer, -1) },
    { keys: Object.keys(STEPS), what: "Move the crosshair", use: (key) => step(...STEPS[key]!), onImage: true },
    { keys: ["+", "-"], hidden: ["="], what: "Zoom in, out", use: (key) => viewer.zoom(key === "-" ? 0.8 : 1.25) },
    { keys: ["x"], what: "Crosshair on or off", use: () => toggles.crosshair() },
    { keys: ["n"], what: "Smooth or sharp voxels", use: () => toggles.smooth() },
    { keys: ["p", "P"], what: "Save a picture; with the name", use: (key) => savePicture(viewer, key === "P") },
  ],
  Window: [
    { keys: ["w"], what: "Next preset", use: nextPreset },
    { keys: ["r"], what: "Reset window, zoom and place", use: reset },
  ],
  Structures: [
    { keys: ["l"], what: "Show or hide all", use: () => toggleLabels() },
    { keys: ["[", "]"], what: "Fainter, stronger", use: (key) => changeOpacity(key === "[" ? -10 : 10) },
    { keys: ["u"], what: "Outlines or areas", use: () => byId("toggle-outline").click() },
    { keys: ["d"], what: "Doubt", use: () => toggleDoubt() },
    { keys: ["a"], what: "Attention", use: () => void (state.image && toggleAttention()) },
    { keys: ["Enter"], what: "Attention from the crosshair", use: () => askHere(), onImage: true },
  ],
  Measure: [
    { keys: ["m"], what: "Distance, region, freehand", use: nextMeasuring },
    { keys: ["Enter"], what: "Set a point at the crosshair", use: measureAtCrosshair, onImage: true },
    { keys: ["Delete"], hidden: ["Backspace"], what: "Delete the chosen one", use: removeSelected },
    { keys: ["z", "Ctrl+z"], what: "Undo", use: undoMeasured },
    { keys: ["y", "Ctrl+y"], hidden: ["Ctrl+Z"], what: "Redo", use: redoMeasured },
  ],
  Correct: CORRECTING,
  Clicks: [
    { keys: ["c"], what: "Click, and the model corrects", use: takeClicks },
    { keys: ["Enter"], what: "Click at the crosshair", use: () => clickHere(), onImage: true },
    { keys: ["Delete"], hidden: ["Backspace"], what: "Take away at the crosshair", use: () => clickHere(true) },
  ],
  "Versions and comparing": [
    { keys: ["Ctrl+s"], what: "Save as a version", use: () => unsaved() && void saveCorrection() },
    { keys: ["b"], what: "Blink: the other map, and back", use: blink },
  ],
};

/** Browsers open a file dialog only after some action of the user; else the button waits for Enter. */
function openDialog(): void {
  byId("open-files").focus();
  byId("open-files").click();
}

/** Attention is asked for where a click ends that did not drag. */
function connectPicking(): void {
  onStillClick(canvas, () => attentionOn() && AXIS_OF[clicked] !== undefined && askHere());
}

function connectDoubleClick(): void {
  canvas.addEventListener("dblclick", () => {
    const along = AXIS_OF[clicked];
    setView(view === "all" ? (along === undefined ? "render" : PLANE_VIEWS[along]!) : "all");
  }, { capture: true });
}

async function loadBundles(): Promise<void> {
  try {
    state.bundles = await api.bundles();
    changed("bundles");
    refresh();
    if (!state.bundles.length) show("error", "No model is served.", "Start the server with one: transunet serve BUNDLE.");
  } catch (error) {
    explain(error, "Reading the models", () => void loadBundles());
  }
}

/** Offer what this server has beside the models. */
async function showOffers(): Promise<void> {
  try {
    const offered = await api.offers();
    byId("open-pacs").hidden = !offered.pacs;
    byId("start-sample").hidden = !offered.sample;
    await connectLearning(offered, visit);
  } catch (error) {
    explain(error, "Asking what the server offers", () => void showOffers());
  }
}

async function start(): Promise<void> {
  api.adoptToken();
  window.addEventListener("hashchange", () => location.reload());
  connectMessages();
  makeViews();
  addTool("look", "Look", "Click to move the crosshair (Escape)");
  const open = (files: File[]): void => void openFiles(files, viewer);
  for (const place of ["open", "start"])
    for (const input of ["files", "folder"]) chooser(`${place}-${input}`, input, open);
  takeDrops(byId("reference-drop"), open, (files) => void addLabels(files));
  connectPosition(viewer);
  connectWindow(viewer);
  connectFrames();
  connectMeasuring(viewer);
  on("image", () => setView("all"));
  connectStructures(viewer);
  connectSegmenting(finished);
  connectResults();
  connectLabelMaps();
  connectComparing(viewer, (map) => showMap(map, viewer));
  on("layout", letters);
  connectVolumes();
  connectAttention(viewer);
  connectDoubt(viewer);
  connectCorrecting(viewer);
  connectPen(viewer);
  connectClicks(viewer);
  connectMapList(viewer, removed);
  const openImage = (id: string): void => void openKept(id, viewer);
  connectRecent({ openImage, openMap: (image, map) => void openMap(image, map), openJob: (job) => void reopen(job) });
  connectKeys(SHORTCUTS, canvas);
  connectPicking();
  connectDoubleClick();
  byId("reset-view").addEventListener("click", reset);
  byId("save-picture").addEventListener("click", (event) => savePicture(viewer, event.shiftKey));
  byId("start-sample").addEventListener("click", () => void openSample(viewer));
  connectPacs((series) => void openSeries(series, viewer));
  await loadBundles();
  await showOffers();
  try {
    await viewer.attach();
  } catch (error) {
    console.error(error);
    show("error", "This browser cannot draw images (WebGL 2 is missing or switched off).", "Segmenting and downloading work all the same.");
  }
}

void start();
