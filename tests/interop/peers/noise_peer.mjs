// A peer that speaks Noise XX by noise-c, compiled to WebAssembly, and echoes: listens as the responder, or dials as
// the initiator. Prints its static key and port, reads the port to dial, or nothing, and prints what the handshake
// told it.
import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import { createInterface } from 'node:readline'
import createNoise from '@richardhopton/noise-c.wasm'

const PROTOCOL = 'Noise_XX_25519_ChaChaPoly_SHA256'
const EMPTY = new Uint8Array()
const hex = bytes => Buffer.from(bytes).toString('hex')
const print = value => console.log(JSON.stringify(value))

function send (socket, message) {
  const prefix = Buffer.alloc(2)
  prefix.writeUInt16BE(message.length)
  socket.write(Buffer.concat([prefix, message]))
}

async function * messages (socket) {
  let buffer = Buffer.alloc(0)
  for await (const chunk of socket) {
    buffer = Buffer.concat([buffer, chunk])
    while (buffer.length >= 2 && buffer.length >= 2 + buffer.readUInt16BE()) {
      const end = 2 + buffer.readUInt16BE()
      yield new Uint8Array(buffer.subarray(2, end))
      buffer = buffer.subarray(end)
    }
  }
}

const noise = await new Promise(resolve => createNoise(resolve))
const { constants } = noise
const [privateKey, publicKey] = noise.CreateKeyPair(constants.NOISE_DH_CURVE25519)
const server = createServer().listen(0, '127.0.0.1')
await once(server, 'listening')
const dialled = once(server, 'connection')
const lines = createInterface({ input: process.stdin })
print({ key: hex(publicKey), port: server.address().port })
const port = JSON.parse((await once(lines, 'line'))[0])
const socket = port ? connect(port, '127.0.0.1') : (await dialled)[0]
server.close()
lines.close()

const state = noise.HandshakeState(
  PROTOCOL, port ? constants.NOISE_ROLE_INITIATOR : constants.NOISE_ROLE_RESPONDER
)
state.Initialize(null, privateKey)
const received = messages(socket)
while (state.GetAction() !== constants.NOISE_ACTION_SPLIT) {
  if (state.GetAction() === constants.NOISE_ACTION_WRITE_MESSAGE) {
    send(socket, state.WriteMessage())
  } else {
    state.ReadMessage((await received.next()).value)
  }
}
print({ remote: hex(state.GetRemotePublicKey()), hash: hex(state.GetHandshakeHash()) })
const [sending, receiving] = state.Split()
for await (const message of received) {
  send(socket, sending.EncryptWithAd(EMPTY, receiving.DecryptWithAd(EMPTY, message)))
}
socket.end()
