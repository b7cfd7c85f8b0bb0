// A js-libp2p peer: does what it is told, one JSON value a line, until its standard input ends.
// The first thing it prints is where it listens.
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { setTimeout } from 'node:timers/promises'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { identify } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

const ECHO = '/echo/1.0.0'
const STREAMS = { maxInboundStreams: 128, maxOutboundStreams: 128 }

const node = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  connectionManager: { inboundConnectionThreshold: 1000 }, // a second, from one host; tests come fast
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify(), ping: ping(STREAMS) } // a stream counts until both ends have closed it
})

async function send (stream, data) {
  if (!stream.send(data)) {
    await once(stream, 'drain')
  }
}

await node.handle(ECHO, async stream => {
  for await (const data of stream) {
    await send(stream, data.subarray())
  }
  await stream.close()
}, STREAMS)

const identities = new Map() // it asks everybody at once
node.addEventListener('peer:identify', ({ detail }) => identities.set(String(detail.peerId), detail))

async function patiently (find) { // for what it learns a moment after its peer
  let found
  while (!(found = find())) {
    await setTimeout(10)
  }
  return found
}

const connectionTo = remote =>
  patiently(() => node.getConnections().find(({ remotePeer }) => String(remotePeer) === remote))

const commands = {
  async dial (address) {
    await node.dial(multiaddr(address))
  },
  async ping (remote, count) {
    const { remotePeer } = await connectionTo(remote)
    for (let done = 0; done < count; done++) {
      await node.services.ping.ping(remotePeer)
    }
    return count
  },
  async identify (remote) {
    const message = await patiently(() => identities.get(remote))
    return {
      agent: message.agentVersion,
      protocols: message.protocols,
      observed: String(message.observedAddr),
      listening: message.listenAddrs.map(String)
    }
  },
  async echo (remote, size) {
    const connection = await connectionTo(remote)
    const stream = await connection.newStream(ECHO, STREAMS)
    const sent = randomBytes(size)
    const received = createHash('sha256')
    const end = (async () => {
      for await (const data of stream) {
        received.update(data.subarray())
      }
    })()
    await send(stream, sent)
    await stream.close()
    await end
    return received.digest('hex') === createHash('sha256').update(sent).digest('hex')
  },
  async echoes (remote, count, size) {
    const intact = await Promise.all(Array.from({ length: count }, () => commands.echo(remote, size)))
    return intact.filter(Boolean).length
  }
}

console.log(JSON.stringify(String(node.getMultiaddrs()[0])))
for await (const command of createInterface({ input: process.stdin })) {
  const [name, args] = JSON.parse(command)
  try {
    console.log(JSON.stringify({ result: await commands[name](...args) ?? null }))
  } catch (error) {
    console.log(JSON.stringify({ error: String(error) }))
  }
}
await node.stop()
