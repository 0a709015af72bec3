// Train and fetch an adapter from Node, with stubs generated from the protos.
//
//   npm install && npm run generate
//   node client.js ADDRESS TOKEN_FILE SPEC_JSON OUT_FOLDER
import { createHash, randomUUID } from "node:crypto";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import path from "node:path";

import { fromJson } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";

import { ArtifactService } from "./gen/tunefleet/artifact/v1/artifact_service_pb.js";
import { BlobService } from "./gen/tunefleet/artifact/v1/blob_service_pb.js";
import { FleetService } from "./gen/tunefleet/fleet/v1/fleet_service_pb.js";
import { JobService } from "./gen/tunefleet/job/v1/job_service_pb.js";
import { JobSpecSchema } from "./gen/tunefleet/job/v1/spec_pb.js";
import { JobState } from "./gen/tunefleet/job/v1/state_pb.js";

const ENDED = [JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED];
const [address, tokenFile, specFile, out] = process.argv.slice(2);
const token = (await readFile(tokenFile, "utf8")).trim();

// Every call carries the token.
const withToken = (next) => (request) => {
  request.header.set("authorization", `Bearer ${token}`);
  return next(request);
};
const transportTo = (where) =>
  createGrpcTransport({ baseUrl: `http://${where}`, interceptors: [withToken] });

// Follow a job to its end; after a cut go on with what was seen last.
async function watch(jobs, name) {
  let seen = 0n;
  for (;;) {
    try {
      for await (const response of jobs.watchJob({ name, afterSequence: seen })) {
        if (response.content.case === "events") {
          seen = response.content.value.events.at(-1).sequence;
        } else if (response.content.case === "snapshot") {
          const job = response.content.value;
          console.error(`${name}: ${JobState[job.state]}`);
          if (ENDED.includes(job.state)) return job;
        }
      }
    } catch (error) {
      if (ConnectError.from(error).code !== Code.Unavailable) throw error;
    }
  }
}

async function download(blobs, file) {
  const digest = createHash("sha256");
  const target = path.resolve(out, file.path);
  if (!target.startsWith(path.resolve(out) + path.sep)) {
    throw new Error(`${file.path} leads out of ${out}`);
  }
  const pieces = [];
  for await (const piece of blobs.downloadBlob({ sha256: file.sha256 })) {
    digest.update(piece.chunk);
    pieces.push(piece.chunk);
  }
  if (digest.digest("hex") !== file.sha256) {
    throw new Error(`${file.path} is not what its manifest says`);
  }
  await mkdir(path.dirname(target), { recursive: true });
  await writeFile(target, Buffer.concat(pieces));
}

const transport = transportTo(address);
const jobs = createClient(JobService, transport);
const spec = fromJson(JobSpecSchema, JSON.parse(await readFile(specFile, "utf8")));
const created = await jobs.createJob({ parent: "projects/default", requestId: randomUUID(), spec });
const job = await watch(jobs, created.job.name);
if (job.state !== JobState.SUCCEEDED) {
  throw new Error(`${job.name} ended as ${JobState[job.state]}: ${job.error?.message ?? ""}`);
}
const digest = job.result.manifestDigest;
const { manifest } = await createClient(ArtifactService, transport).getManifest({ digest });
const told = await createClient(FleetService, transport).getFleet({});
const blobs = createClient(BlobService, transportTo(told.blobAddress));
for (const file of manifest.files) {
  await download(blobs, file);
}
console.log(JSON.stringify({ job: job.name, manifest: digest, files: manifest.files.length }));
process.exit(0); // the transports keep their connections open
