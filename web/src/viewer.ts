/** NiiVue, and nothing else of it, behind the few words that the page needs. */

import { DRAG_MODE, Niivue, NVImage, SLICE_TYPE } from "@niivue/niivue";
import { labelsForDisplay, type Nifti, type Vector } from "./nifti";

export type View = "all" | "axial" | "coronal" | "sagittal" | "render";
export interface Colour {
  index: number;
  color: string;
}

const SLICE_TYPES: Record<View, SLICE_TYPE> = {
  all: SLICE_TYPE.MULTIPLANAR,
  axial: SLICE_TYPE.AXIAL,
  coronal: SLICE_TYPE.CORONAL,
  sagittal: SLICE_TYPE.SAGITTAL,
  render: SLICE_TYPE.RENDER,
};
/** Axial, coronal, sagittal and 3D: every one a quarter of the screen, whatever the image's shape. */
const QUADRANTS: { sliceType: SLICE_TYPE; position: [number, number, number, number] }[] = [
  { sliceType: SLICE_TYPE.AXIAL, position: [0, 0, 0.498, 0.497] },
  { sliceType: SLICE_TYPE.CORONAL, position: [0.502, 0, 0.498, 0.497] },
  { sliceType: SLICE_TYPE.SAGITTAL, position: [0, 0.503, 0.498, 0.497] },
  { sliceType: SLICE_TYPE.RENDER, position: [0.502, 0.503, 0.498, 0.497] },
];
/** Of the image's width: a hair's breadth on any screen. */
const CROSSHAIR_PERCENT = 0.25;
/** Of labels' opacity, while something else is to be seen. */
const FAINT = 0.3;
/** NIfTI's intent code of a label map. */
const INTENT_LABEL = 1002;
const CROSSHAIR_GAP = 0.03;
/** A processor without a graphics card shades images up to here at once. */
const SHADED_BY_PROCESSOR = 1e6;
/** The axis (right, anterior, superior) that a plane's slices follow; NiiVue numbers planes so. */
export const AXIS_OF: Record<number, number> = { 0: 2, 1: 1, 2: 0 };

/** From black to yellow: perceptually even, told apart by people with any colour vision. */
const RAMP = {
  R: [0, 87, 188, 249, 252],
  G: [0, 16, 55, 142, 255],
  B: [4, 110, 84, 9, 164],
  A: [0, 255, 255, 255, 255],
  I: [0, 64, 128, 192, 255],
};

export class Viewer {
  private readonly nv: Niivue;
  private image: NVImage | null = null;
  private labels: NVImage | null = null;
  private labelVoxels: ArrayLike<number> = [];
  private heat: NVImage | null = null;
  private picture = false;
  private hidden = new Set<number>();
  private opacity = 0.5;
  private shown = true;
  private faint = false;
  private outlined = false;
  private software = false;
  private shaded = false;
  private centre: Vector = [0, 0, 0];
  private attached = false;
  private radiological = true;

  /** @param moved is told the crosshair's place in mm and the plane that was clicked, if any. */
  constructor(
    private readonly canvas: HTMLCanvasElement,
    moved: (mm: Vector, plane: number) => void,
    private readonly windowed: () => void,
  ) {
    this.nv = new Niivue({
      backColor: [0, 0, 0, 1],
      crosshairColor: [0.35, 0.75, 0.95, 0.8],
      crosshairWidth: CROSSHAIR_PERCENT,
      crosshairWidthUnit: "percent",
      show3Dcrosshair: true,
      dragAndDropEnabled: false,
      dragMode: DRAG_MODE.windowing,
      isOrientationTextVisible: false, // letters.ts
      isRadiologicalConvention: true,
      // Between two slices a map of one slice would be drawn faint.
      isForceMouseClickToVoxelCenters: true,
      loadingText: "",
      logLevel: "error",
      longTouchTimeout: 2e9,
      tileMargin: -1,
      windowingGainFactor: 1,
    });
    this.nv.onLocationChange = (location) => {
      const { mm, axCorSag } = location as { mm: Vector; axCorSag: number };
      moved([mm[0], mm[1], mm[2]], axCorSag);
    };
    this.nv.onIntensityChange = () => this.windowed();
  }

  /** @throws when the browser has no WebGL2. */
  async attach(): Promise<void> {
    if (!this.canvas.getContext("webgl2")) throw new Error("no WebGL2");
    this.takeKeysAndDoubleClicks();
    await this.nv.attachToCanvas(this.canvas, true);
    this.attached = true;
    this.software = /swiftshader|llvmpipe|software/i.test(renderer(this.nv.gl));
    this.nv.addColormap("heat", { ...RAMP, min: 0, max: 0 } as never);
    for (const event of ["mousemove", "mouseup", "touchmove"])
      this.canvas.addEventListener(event, () => this.image && this.windowed());
  }

  /** Light surfaces in 3D and let through what is even, if the machine can compute the gradients. */
  private async shade(voxels: number): Promise<void> {
    this.shaded = !this.software || voxels < SHADED_BY_PROCESSOR;
    await this.nv.setVolumeRenderIllumination(this.shaded ? 0.5 : 0);
    await this.nv.setGradientOpacity(this.shaded ? 0.35 : 0);
  }

  /** `build.mjs` gives NiiVue this switch. */
  private get gradients(): { skipsGradients?: boolean } {
    return this.nv as never;
  }

  /** NiiVue has keys of its own, and resets the window at a double click; the page decides those. */
  private takeKeysAndDoubleClicks(): void {
    for (const name of ["keydown", "keyup", "dblclick"])
      this.canvas.addEventListener(name, (event) => event.stopImmediatePropagation());
  }

  async showImage(source: Nifti, picture: boolean, range: [number, number]): Promise<void> {
    if (!this.attached) return;
    this.image = this.labels = this.heat = null;
    this.nv.volumes = [];
    this.picture = picture;
    await this.shade(source.count);
    this.image = await volume(source, "image", "gray", 1);
    [this.image.cal_min, this.image.cal_max] = range;
    this.nv.opts.isRadiologicalConvention = !picture && this.radiological;
    this.nv.opts.crosshairGap = CROSSHAIR_GAP * Math.max(...source.dims.map((n, axis) => n * source.sizes[axis]!));
    this.nv.scene.pan2Dxyzmm = [0, 0, 0, 1] as never;
    this.choose(picture ? "axial" : "all");
    this.arrange();
    this.centre = source.mm(source.dims.map((count) => Math.floor(count / 2)));
    this.moveTo(this.centre);
  }

  /**
   * Give NiiVue what is to be drawn, the image first.
   *
   * Its own ways of adding and removing send the image to the graphics card again for each overlay.
   */
  private arrange(): void {
    const all = [this.image, this.labels, this.heat].filter((each) => each !== null);
    this.nv.volumes = all;
    this.nv.back = all[0] ?? null;
    this.nv.overlays = all.slice(1);
    if (all.length > 1) this.refreshOverlays();
    else this.nv.updateGLVolume();
  }

  async showLabels(source: Nifti | null, colours: Colour[]): Promise<void> {
    if (!this.image) return;
    this.labels = null;
    if (source) {
      const flat = labelsForDisplay(source);
      this.labels = await volume(flat, "labels", "gray", this.opacity);
      this.styleLabels();
      this.labels.setColormapLabel(lookup(colours) as never);
      this.labelVoxels = flat.data;
      this.hidden.clear();
      this.filterLabels();
    }
    this.arrange();
  }

  setHidden(hidden: Set<number>): void {
    this.hidden = new Set(hidden);
    this.filterLabels();
    this.refreshOverlays();
  }

  /** Hidden structures leave the drawn array, so that neither area nor outline of them stays. */
  private filterLabels(): void {
    if (!this.labels?.img) return;
    const target = this.labels.img;
    const kept = (value: number): number => (this.shown && !this.hidden.has(value) ? value : 0);
    const table = Array.from({ length: 65536 }, (_, value) => kept(value));
    for (let n = 0; n < target.length; n++) target[n] = table[this.labelVoxels[n]!]!;
  }

  setLabelsShown(shown: boolean): void {
    this.shown = shown;
    this.filterLabels();
    this.refreshOverlays();
  }

  setOpacity(opacity: number): void {
    this.opacity = opacity;
    this.paintLabels();
  }

  setLabelsFaint(on: boolean): void {
    this.faint = on;
    this.paintLabels();
  }

  setOutline(on: boolean): void {
    this.outlined = on;
    this.paintLabels();
  }

  private paintLabels(): void {
    this.styleLabels();
    this.refreshOverlays();
  }

  /** NiiVue outlines what is declared as labels; but then it fills pale what is a few voxels thin. */
  private styleLabels(): void {
    const opacity = this.faint ? FAINT * this.opacity : this.opacity;
    this.nv.opts.atlasOutline = this.outlined ? opacity : 0;
    if (!this.labels) return;
    this.labels.opacity = this.outlined ? 0 : opacity;
    this.labels.hdr!.intent_code = this.outlined ? INTENT_LABEL : 0;
  }

  /** @param top what is drawn brightest; below the share `solid` of it the map fades away. */
  async showHeat(source: Nifti | null, opacity = 0, top = 1, solid = 1): Promise<void> {
    if (!this.image || (!source && !this.heat)) return;
    this.heat = null;
    if (!source) return this.arrange();
    this.heat = await volume(source, "heat", "heat", opacity);
    this.heat.cal_min = solid * top;
    this.heat.cal_max = top;
    this.heat.colormapType = 1;
    this.arrange();
  }

  setHeatOpacity(opacity: number): void {
    if (!this.heat) return;
    this.heat.opacity = opacity;
    this.refreshOverlays();
  }

  /** Draw the overlays again without sending the image to the graphics card again. */
  private refreshOverlays(): void {
    if (!this.image) return;
    this.nv.volumes.forEach((each, layer) => layer > 0 && this.nv.refreshLayers(each, layer));
    this.nv.drawScene();
  }

  get window(): [number, number] {
    return this.image ? [this.image.cal_min!, this.image.cal_max!] : [0, 1];
  }

  set window([low, high]: [number, number]) {
    if (!this.image) return;
    this.image.cal_min = low;
    this.image.cal_max = high;
    this.nv.refreshLayers(this.image, 0);
    this.nv.drawScene();
  }

  setView(view: View): void {
    if (this.choose(view) && this.image) this.nv.refreshLayers(this.image, 0);
    if (this.attached) this.nv.drawScene();
  }

  /** Lay the planes out; return whether the 3D view needs gradients that were left out so far. */
  private choose(view: View): boolean {
    const [all, plane] = [view === "all" && !this.picture, this.picture ? "axial" : view];
    this.nv.customLayout = all ? QUADRANTS : [];
    this.nv.opts.sliceType = SLICE_TYPES[plane];
    const without = !this.shaded || !(all || plane === "render");
    const stale = this.gradients.skipsGradients === true && !without;
    this.gradients.skipsGradients = without;
    return stale;
  }

  setCrosshair(on: boolean): void {
    this.nv.opts.show3Dcrosshair = on;
    if (this.attached) this.nv.setCrosshairWidth(on ? CROSSHAIR_PERCENT : 0);
  }

  setSmooth(on: boolean): void {
    if (this.attached) this.nv.setInterpolation(!on);
  }

  setRadiological(on: boolean): void {
    this.radiological = on;
    if (this.attached && !this.picture) this.nv.setRadiologicalConvention(on);
  }

  setFrame(frame: number): void {
    if (this.image) this.nv.setFrame4D(this.image.id, frame);
  }

  resetView(): void {
    if (!this.image) return;
    this.nv.setPan2Dxyzmm([0, 0, 0, 1]);
    this.nv.setRenderAzimuthElevation(110, 10);
    this.nv.setScale(1);
    this.moveTo(this.centre);
  }

  zoom(factor: number): void {
    if (!this.image) return;
    const [x, y, z, scale] = this.nv.scene.pan2Dxyzmm as unknown as number[];
    this.nv.setPan2Dxyzmm([x!, y!, z!, Math.min(10, Math.max(0.2, scale! * factor))]);
  }

  /** Voxels along right, anterior, superior. */
  get extents(): Vector {
    const dims = this.image?.dimsRAS ?? [3, 1, 1, 1];
    return [dims[1]!, dims[2]!, dims[3]!];
  }

  /** The crosshair's voxel along right, anterior, superior. */
  get place(): Vector {
    if (!this.image) return [0, 0, 0];
    return [...this.nv.frac2vox(this.nv.scene.crosshairPos)] as Vector;
  }

  move(right: number, anterior: number, superior: number): void {
    if (this.image) this.nv.moveCrosshairInVox(right, anterior, superior);
  }

  moveTo(mm: Vector): void {
    if (!this.image) return;
    this.nv.scene.crosshairPos = this.nv.mm2frac(mm as never) as never;
    this.nv.createOnLocationChange();
    this.nv.drawScene();
  }
}

function renderer(gl: WebGL2RenderingContext): string {
  const about = gl.getExtension("WEBGL_debug_renderer_info");
  return about ? String(gl.getParameter(about.UNMASKED_RENDERER_WEBGL)) : "";
}

function volume(source: Nifti, name: string, colormap: string, opacity: number): Promise<NVImage> {
  // Its declaration asks for all twenty arguments; they have defaults.
  const open = NVImage.new.bind(NVImage) as (...all: unknown[]) => Promise<NVImage>;
  return open(source.bytes, `${name}.nii`, colormap, opacity);
}

function lookup(colours: Colour[]): { R: number[]; G: number[]; B: number[]; A: number[]; I: number[] } {
  const table = { R: [0], G: [0], B: [0], A: [0], I: [0] };
  for (const { index, color } of colours.filter(({ index }) => index > 0)) {
    const channel = (n: number): number => parseInt(color.slice(1 + 2 * n, 3 + 2 * n), 16);
    table.R.push(channel(0));
    table.G.push(channel(1));
    table.B.push(channel(2));
    table.A.push(255);
    table.I.push(index);
  }
  return table;
}
