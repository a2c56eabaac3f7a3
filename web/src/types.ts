/** What the API of `transunet serve` answers with. Fields that the page does not read are left out. */

export interface Label {
  index: number;
  name: string;
  color: string;
  /** The values that make it up: its own, or those of a region. */
  members: number[];
}

export interface Bundle {
  id: string;
  name: string;
  labels: Label[];
  overlapping: boolean;
  channels: string[];
  image_size: number[];
  layers: number;
  heads: number;
  clicks: boolean;
}

/** What a person says of a voxel, in the order of the image's file: a structure, or null for none. */
export interface LabelClick {
  voxel: [number, number, number];
  structure: number | null;
}

export interface ClicksQuestion {
  bundle: string;
  clicks: LabelClick[];
  /** How many of them the labels show already. */
  applied: number;
  parent: string | null;
  edited: LabelBox | null;
}

/** Labels in 16 bits, zipped, as base64. */
export interface LabelBox {
  start: [number, number, number];
  shape: [number, number, number];
  data: string;
}

export interface ImageInfo {
  id: string;
  name: string;
  shape: number[];
  channels: number;
  spacing_mm: number[];
  orientation: string;
  kind: "volume" | "picture";
  /** Of each channel's intensities, where it is known. */
  units: ("HU" | null)[];
  header: DicomHeader | null;
  result_formats: string[];
  warnings: string[];
  obstacle: string | null;
  /** Whether results can be stored in the PACS it came from. */
  from_pacs: boolean;
  suitability: Suitability[];
  created: string;
  expires: string;
  /** Whether a correction keeps it beyond that. */
  kept: boolean;
}

/** Whom and what a DICOM series shows; empty what its header does not tell. */
export interface DicomHeader {
  patient_name: string;
  patient_id: string;
  study_date: string;
  study: string;
  series: string;
  modality: string;
}

/** Whether the image is of the kind that a bundle was trained on. */
export interface Suitability {
  bundle: string;
  refusal: string | null;
  warnings: string[];
  /** Whether these are of its intensities, and not of voxels and field of view alone. */
  doubtful_values: boolean;
}

/** One of several DICOM series that were sent together. */
export interface Series {
  number: number;
  modality: string;
  description: string;
  slices: number;
  part: string;
}

/** A series of images in the PACS. */
export interface PacsSeries {
  study: string;
  series: string;
  modality: string;
  description: string;
  images: number | null;
}

export type JobStatus = "queued" | "running" | "done" | "failed" | "cancelled";

export interface Statistic {
  index: number;
  name: string;
  color: string;
  volume_ml: number;
  voxels: number;
  /** Null, as all that follows, where the bundle knows nothing of its own results; absent in what older servers answer. */
  look?: boolean | null;
  reason?: string | null;
  expected_dice?: number | null;
  expected_within?: number | null;
  volume_interval_ml?: [number, number] | null;
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
  warnings: string[];
  /** Whether there is a map of doubt. */
  uncertainty: boolean;
  created: string;
}

export interface Settings {
  procedure: "native" | "paper";
  mirror: boolean;
  largest_component: string[];
  window: boolean;
  force: boolean;
}

export interface Measured extends Label {
  voxels: number;
  volume_ml: number;
}

/** A label map of the image: a job's result, a file that was given, or a correction. */
export interface LabelMap {
  kind: "job" | "given" | "correction";
  id: string;
  name: string;
  author: string | null;
  created: string;
  /** What a correction was made of, and how many voxels it changed there. */
  parent?: string | null;
  changed_voxels?: number | null;
  structures: Measured[];
  /** That it is the result of. */
  job?: Job;
}

export interface Comparison {
  structures: { index: number; name: string; dice: number | null; hd95_mm: number | null }[];
  mean: { dice: number | null; hd95_mm: number | null };
  warnings: string[];
}

export interface Limits {
  upload_bytes: number;
  files: number;
}

/** What the server takes, and what it can do beside segmenting what it is sent. */
export interface Offers {
  limits: Limits;
  pacs: boolean;
  sample: boolean;
  dataset: boolean;
  worklist: boolean;
}

/** The data set that label maps are added to. */
export interface DatasetState {
  name: string;
  cases: number;
  /** The one that the image is. */
  case: string | null;
}

/** Images in the order in which they are to be labelled. */
export interface WorklistState {
  order: "expected Dice" | "soft Dice";
  cases: {
    place: number;
    case: string;
    dice: number;
    structure: string;
    reasons: string[];
    image: string | null;
    /** The case of the data set that it became. */
    added: string | null;
  }[];
}
