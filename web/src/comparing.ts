/** What the label map that is shown is compared with, and how: outlines, difference, side by side, blinking. */

import * as api from "./api";
import { unsaved } from "./correcting";
import { byId, make, sentence, swatch } from "./dom";
import { chooser } from "./files";
import { addMap, bundleIdOf, fetchLabels, maps, nameOfMap } from "./labelmaps";
import { announce, explain, show } from "./messages";
import type { Nifti } from "./nifti";
import { type Comparing, DIFFERENCE } from "./overlay";
import { penInHand, setTool } from "./pointer";
import { changed, on, state } from "./state";
import { amountOf } from "./structures";
import type { Comparison, LabelMap } from "./types";
import type { Viewer } from "./viewer";

const WAYS: [value: Comparing, text: string, title: string][] = [
  ["outline", "Outline", "The other one as a white, dashed outline"],
  ["difference", "Difference", "What one has and the other has not"],
  ["sides", "Side by side", "Both, in the same place"],
  ["blink", "Blink", "One after the other (B)"],
];
const LEGEND: [key: keyof typeof DIFFERENCE, text: string][] = [
  ["agreed", "agreed"],
  ["missed", "missed: only the other has it"],
  ["extra", "extra: the other has nothing here"],
  ["otherwise", "another structure"],
];
const BLINK_MS = 800;
/** Ways in which a stroke would not be seen as what it is. */
const NOT_DRAWN_ON: Comparing[] = ["difference", "blink"];

const slider = byId<HTMLInputElement>("blend");
const text = byId("reference-text");
const table = byId<HTMLTableElement>("comparison");
/** What the shown one is compared with. */
export let compared: LabelMap | null = null;
let way: Comparing = "outline";
/** The way in which they are shown now. */
let laid: Comparing = way;
/** How much of the compared one stands for the other, while they blink. */
let share = 0;
let clock = 0;
let viewer: Viewer;
let showMap: (map: LabelMap) => Promise<void>;

/** @param show draws another label map as that which is looked at. */
export function connectComparing(drawn: Viewer, show: (map: LabelMap) => Promise<void>): void {
  viewer = drawn;
  showMap = show;
  for (const [value, text, title] of WAYS) {
    const input = make("input", { type: "radio", name: "comparing", value, checked: value === way });
    input.addEventListener("change", () => choose(value));
    byId("comparing").append(make("label", { className: "choice", title }, input, make("span", {}, text)));
  }
  byId("difference-legend").append(
    ...LEGEND.map(([key, text]) => make("li", {}, swatch(DIFFERENCE[key]), text)),
  );
  chooser("reference-choose", "reference-file", (files) => void addLabels(files));
  slider.addEventListener("input", () => {
    clearInterval(clock);
    blend(Number(slider.value) / 100);
  });
  on("image", () => void compareWith(null));
  on("maps", () => void takeMaps());
  on("edit", () => (table.caption!.hidden = !unsaved()));
  on("tool", makeWay);
}

/** The way that was chosen; while somebody draws, one in which strokes have their structures' colours. */
const seen = (): Comparing => (penInHand() && NOT_DRAWN_ON.includes(way) ? "outline" : way);

/** A pen puts the difference away, and without it the difference comes back. */
function makeWay(): void {
  if (!compared || seen() === laid) return;
  lay();
  if (penInHand()) show("note", "While you draw, the other label map is a dashed outline.", "Escape ends drawing, and compares as before.");
}

/** The label maps, or what is shown, may be others. */
async function takeMaps(): Promise<void> {
  const kept = maps.find(({ id }) => id === compared?.id && id !== state.shown?.id) ?? null;
  if (kept || compared) await compareWith(kept);
}

/** Send a label map: it is shown, or what is shown is compared with it. */
export async function addLabels(files: File[]): Promise<void> {
  const [image, [file]] = [state.image, files];
  if (!image || !file) return;
  text.hidden = false;
  text.textContent = `Sending ${file.name}…`;
  try {
    const map = await api.sendLabels(image.info.id, files, bundleIdOf(state.shown));
    if (state.image !== image) return;
    text.hidden = true;
    if (state.shown) compared = map;
    addMap(map);
    if (!state.shown) await showMap(map);
  } catch (error) {
    text.hidden = true;
    explain(error, "Reading the label map", () => void addLabels(files));
  }
}

export async function compareWith(map: LabelMap | null): Promise<void> {
  compared = map;
  changed("compared");
  const [image, shown] = [state.image, state.shown];
  for (const each of ["comparing", "comparison"]) byId(each).hidden = !map;
  if (!map || !image || !shown) {
    text.hidden = true;
    viewer.compareWith(null, [], ["", ""]);
    lay();
    return;
  }
  text.hidden = false;
  text.textContent = "Comparing…";
  try {
    const [labels, scores] = await Promise.all([fetchLabels(map), api.comparison(image.info.id, shown.id, map.id)]);
    if (compared !== map || state.shown !== shown) return;
    const [numbered, colours] = numberedAs(shown, map, labels);
    viewer.compareWith(numbered, colours, [nameOfMap(shown), nameOfMap(map)]);
    lay();
    showScores(scores, shown, map);
    text.hidden = !scores.warnings.length;
    text.textContent = scores.warnings.map(sentence).join(" ");
    announce(`Compared with ${nameOfMap(map)}.`);
  } catch (error) {
    if (compared !== map) return;
    void compareWith(null);
    explain(error, "Comparing");
  }
}

/** Give structures of the same name the same number as in `shown`. */
function numberedAs(shown: LabelMap, map: LabelMap, labels: Nifti): [Nifti, LabelMap["structures"]] {
  const numbers = new Map(map.structures.map(({ index, name }) => [index, shown.structures.find((each) => each.name === name)?.index]));
  if ([...numbers].every(([index, number]) => number === undefined || number === index)) return [labels, map.structures];
  const free = Math.max(...[...shown.structures, ...map.structures].map(({ index }) => index)) + 1;
  const numberOf = (index: number): number => (index ? numbers.get(index) ?? free + index : 0);
  for (let n = 0; n < labels.data.length; n++) labels.data[n] = numberOf(labels.data[n]!);
  return [labels, map.structures.map((each) => ({ ...each, index: numberOf(each.index) }))];
}

function choose(next: Comparing): void {
  way = next;
  if (seen() !== next) setTool("look");
  lay();
}

function lay(): void {
  laid = seen();
  clearInterval(clock);
  blend(0);
  viewer.setComparing(laid);
  changed("layout");
  byId("difference-legend").hidden = !compared || laid !== "difference";
  byId("blending").hidden = !compared || laid !== "blink";
  for (const input of byId("comparing").querySelectorAll("input")) input.checked = input.value === laid;
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (compared && laid === "blink" && !calm) clock = window.setInterval(turn, BLINK_MS);
}

function blend(next: number): void {
  share = next;
  slider.value = String(100 * share);
  viewer.blend(share);
}

const turn = (): void => blend(share < 0.5 ? 1 : 0);

/** Show the other one, at once and until the next time. */
export function blink(): void {
  if (!compared) return;
  if (laid !== "blink") choose("blink");
  clearInterval(clock);
  turn();
}

const score = (value: number | null, digits: number): string => value?.toFixed(digits) ?? "–";

function showScores({ structures, mean }: Comparison, shown: LabelMap, other: LabelMap): void {
  const unit = state.image?.info.kind === "picture" ? ["pixels", "px"] : ["ml", "mm"];
  const head = ["Structure", `${unit[0]}`, `other ${unit[0]}`, "Dice", `HD95 ${unit[1]}`];
  const line = (name: string, ...cells: string[]): HTMLTableRowElement =>
    make("tr", {}, make("th", { scope: "row" }, name), ...cells.map((cell) => make("td", { className: "number" }, cell)));
  table.tHead!.rows[0]!.replaceChildren(...head.map((each, n) => make("th", { scope: "col", className: n ? "number" : "" }, each)));
  table.tBodies[0]!.replaceChildren(
    ...structures.map((each) => line(each.name, amountIn(shown, each), amountIn(other, each), score(each.dice, 3), score(each.hd95_mm, 2))),
  );
  table.tFoot!.replaceChildren(line("Mean", "", "", score(mean.dice, 3), score(mean.hd95_mm, 2)));
}

/** Of a structure by its name, or its number where the map has no names. */
function amountIn(map: LabelMap, { index, name }: { index: number; name: string }): string {
  const structure = map.structures.find((each) => each.name === name) ?? map.structures.find((each) => each.index === index);
  return structure ? amountOf(structure) : "–";
}
