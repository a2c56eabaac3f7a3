/** What the API of `transunet serve` answers with. Fields that the page does not read are left out. */

export interface Label {
  index: number;
  name: string;
  color: string;
}

export interface Bundle {
  id: string;
  name: string;
  labels: Label[];
  channels: string[];
  image_size: [number, number];
  layers: number;
  heads: number;
}

export interface ImageInfo {
  id: string;
  name: string;
  shape: number[];
  channels: number;
  spacing_mm: number[];
  orientation: string;
  kind: "volume" | "picture";
  result_formats: string[];
  warnings: string[];
}

export type JobStatus = "queued" | "running" | "done" | "failed" | "cancelled";

export interface Statistic {
  index: number;
  name: string;
  color: string;
  volume_ml: number;
  voxels: number;
}

export interface Job {
  id: string;
  image: string;
  bundle: string;
  status: JobStatus;
  slices_done: number;
  slices_total: number | null;
  position: number | null;
  error: { code: string; message: string; remedy?: string } | null;
  statistics: Statistic[] | null;
  created: string;
}

export interface Settings {
  procedure: "native" | "paper";
  mirror: boolean;
  largest_component: string[];
  window: boolean;
}

export interface Comparison {
  structures: { index: number; name: string; dice: number | null; hd95_mm: number | null }[];
  mean: { dice: number | null; hd95_mm: number | null };
}

export interface Limits {
  upload_bytes: number;
  files: number;
}
