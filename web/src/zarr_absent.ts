/** In place of zarrita, which NiiVue brings for chunked remote images: 1.4 MB that the page never calls. */

const absent = (): never => {
  throw new Error("zarr images are not read by this page");
};

export const open = Object.assign(absent, { v2: absent, v3: absent });
export const root = absent;
export const get = absent;
export const slice = absent;
export class FetchStore {
  constructor() {
    absent();
  }
}
