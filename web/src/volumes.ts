/** The table of structures as a file of comma-separated values. */

import { byId } from "./dom";
import { save, stem } from "./files";
import { announce } from "./messages";
import { state } from "./state";

const COLUMNS = [
  "structure", "voxels", "volume_ml", "volume_from_ml", "volume_to_ml", "expected_dice", "expected_within", "look",
] as const;

export function connectVolumes(): void {
  byId("volumes-csv").addEventListener("click", () => {
    save(new Blob([table()], { type: "text/csv" }), `${stem(state.image!.info.name)}_volumes.csv`);
    announce("Downloaded.");
  });
}

function table(): string {
  const { structures = [], job } = state.shown ?? {};
  const lines = structures.map(({ index, name, voxels, volume_ml }) => {
    const known = job?.statistics?.find((each) => each.index === index);
    const [from, to] = known?.volume_interval_ml ?? [];
    return [name, voxels, volume_ml, from, to, known?.expected_dice, known?.expected_within, known?.look];
  });
  return [[...COLUMNS], ...lines].map((line) => `${line.map(quoted).join(",")}\r\n`).join("");
}

/** As RFC 4180 has it; empty where there is nothing. */
function quoted(value: unknown): string {
  const text = String(value ?? "");
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
