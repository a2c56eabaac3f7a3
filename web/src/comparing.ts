/** Which label map is shown, what it is compared with, and how: outlines, difference, side by side, blinking. */

import * as api from "./api";
import { byId, make, options, sentence, swatch } from "./dom";
import { chooser } from "./files";
import { addMap, fetchLabels, maps, nameOfMap } from "./labelmaps";
import { announce, explain } from "./messages";
import type { Nifti } from "./nifti";
import { type Comparing, DIFFERENCE } from "./overlay";
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

const shownList = byId<HTMLSelectElement>("shown-map");
const otherList = byId<HTMLSelectElement>("compared-map");
const text = byId("reference-text");
const table = byId<HTMLTableElement>("comparison");
let compared: LabelMap | null = null;
let way: Comparing = "outline";
let flipped = false;
let clock = 0;
let viewer: Viewer;
let showMap: (map: LabelMap) => Promise<void>;

/** @param show draws another label map as that which is looked at. */
export function connectComparing(drawn: Viewer, show: (map: LabelMap) => Promise<void>): void {
  viewer = drawn;
  showMap = show;
  for (const [value, text, title] of WAYS) {
    const input = make("input", { type: "radio", name: "comparing", value, checked: value === way });
    input.addEventListener("change", () => setWay(value));
    byId("comparing").append(make("label", { className: "choice", title }, input, make("span", {}, text)));
  }
  byId("difference-legend").append(
    ...LEGEND.map(([key, text]) => make("li", {}, swatch(DIFFERENCE[key]), text)),
  );
  chooser("reference-choose", "reference-file", (files) => void addLabels(files));
  shownList.addEventListener("change", () => void showMap(chosen(shownList)!));
  otherList.addEventListener("change", () => void compareWith(chosen(otherList)));
  on("image", () => void compareWith(null));
  on("maps", () => void takeMaps());
}

const chosen = (list: HTMLSelectElement): LabelMap | null => maps.find(({ id }) => id === list.value) ?? null;

/** The label maps, or what is shown, may be others. */
async function takeMaps(): Promise<void> {
  byId("compare-section").hidden = !state.image;
  list();
  const kept = maps.find(({ id }) => id === compared?.id && id !== state.shown?.id) ?? null;
  if (kept || compared) await compareWith(kept);
}

function list(): void {
  const entries = maps.map((map): [string, string] => [map.id, nameOfMap(map)]);
  const shown = state.shown?.id ?? "";
  byId("maps").hidden = !maps.length;
  options(shownList, shown ? entries : [["", "nothing"], ...entries]);
  options(otherList, [["", "nothing"], ...entries.filter(([id]) => id !== shown)]);
  shownList.value = shown;
  otherList.value = compared?.id ?? "";
  otherList.disabled = !shown;
}

/** Send a label map: it is shown, or what is shown is compared with it. */
export async function addLabels(files: File[]): Promise<void> {
  const [image, [file]] = [state.image, files];
  if (!image || !file) return;
  text.hidden = false;
  text.textContent = `Sending ${file.name}…`;
  try {
    const map = await api.sendLabels(image.info.id, files, state.shown?.job?.bundle);
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
  const [image, shown] = [state.image, state.shown];
  for (const each of ["comparing", "comparison"]) byId(each).hidden = !map;
  if (!map || !image || !shown) {
    text.hidden = true;
    viewer.compareWith(null, [], ["", ""]);
    setWay(way);
    return;
  }
  text.hidden = false;
  text.textContent = "Comparing…";
  try {
    const [labels, scores] = await Promise.all([fetchLabels(map), api.comparison(image.info.id, shown.id, map.id)]);
    if (compared !== map || state.shown !== shown) return;
    const [numbered, colours] = numberedAs(shown, map, labels);
    viewer.compareWith(numbered, colours, [nameOfMap(shown), nameOfMap(map)]);
    setWay(way);
    showScores(scores, shown, map);
    text.hidden = !scores.warnings.length;
    text.textContent = scores.warnings.map(sentence).join(" ");
    announce(`Compared with ${nameOfMap(map)}.`);
  } catch (error) {
    if (compared !== map) return;
    void compareWith(null);
    otherList.value = "";
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

function setWay(next: Comparing): void {
  way = next;
  clearInterval(clock);
  flip(false);
  viewer.setComparing(next);
  changed("layout");
  byId("difference-legend").hidden = !compared || way !== "difference";
  for (const input of byId("comparing").querySelectorAll("input")) input.checked = input.value === next;
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (compared && way === "blink" && !calm) clock = window.setInterval(() => flip(!flipped), BLINK_MS);
}

function flip(on: boolean): void {
  flipped = on;
  viewer.flip(on);
}

/** Show the other one, at once and until the next time. */
export function blink(): void {
  if (!compared) return;
  const next = !flipped;
  if (way !== "blink") setWay("blink");
  clearInterval(clock);
  flip(next);
}

const score = (value: number | null, digits: number): string => value?.toFixed(digits) ?? "–";

function showScores({ structures, mean }: Comparison, shown: LabelMap, other: LabelMap): void {
  const unit = state.image?.info.kind === "picture" ? ["pixels", "px"] : ["ml", "mm"];
  const head = ["Structure", `${unit[0]}`, `other ${unit[0]}`, "Dice", `HD95 ${unit[1]}`];
  const line = (name: string, ...cells: string[]): HTMLTableRowElement =>
    make("tr", {}, make("th", { scope: "row" }, name), ...cells.map((cell) => make("td", { className: "number" }, cell)));
  table.tHead!.rows[0]!.replaceChildren(...head.map((each, n) => make("th", { scope: "col", className: n ? "number" : "" }, each)));
  table.tBodies[0]!.replaceChildren(
    ...structures.map(({ name, dice, hd95_mm }) => line(name, amountIn(shown, name), amountIn(other, name), score(dice, 3), score(hd95_mm, 2))),
  );
  table.tFoot!.replaceChildren(line("Mean", "", "", score(mean.dice, 3), score(mean.hd95_mm, 2)));
}

function amountIn(map: LabelMap, name: string): string {
  const structure = map.structures.find((each) => each.name === name);
  return structure ? amountOf(structure) : "–";
}
